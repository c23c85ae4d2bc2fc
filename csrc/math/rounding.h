// Other ways to keep a float32 number in 16 bits: at random between its two neighbours, and split in two halves. On bit
// patterns, like half.h.
#pragma once

#include "math/half.h"

namespace fastopt {
namespace {

// Rounds to a neighbour, up with the probability of what is cut off. `random`: 16 uniform bits.
template <class Half>
FASTOPT_HD uint16_t round_at_random(float x, uint32_t random);

template <>
FASTOPT_HD uint16_t round_at_random<BFloat16>(float x, uint32_t random) {
    const uint32_t u =
        x != x ? 0x7fc00000u : bits(x);  // whose upper half stays, like an infinity's: the lower one is 0
    return uint16_t((u + random) >> 16);
}

template <>
FASTOPT_HD uint16_t round_at_random<Float16>(float x, uint32_t random) {
    const uint32_t u = bits(x), magnitude = u & 0x7fffffffu;
    const uint32_t normal = (magnitude - (112u << 23) + (random >> 3)) >> 13;
    // A subnormal of float16 in units of its last place: whole ones, and what is cut off in 1/65536.
    const bool is_tiny = magnitude < (113u << 23);
    const float units = from_bits(is_tiny ? magnitude : 0u) * 0x1p24f;
    const int32_t whole = int32_t(units);
    const uint32_t rest = uint32_t(int32_t((units - float(whole)) * 65536.0f));
    const uint32_t tiny = uint32_t(whole) + ((rest + random) >> 16);
    const uint32_t finite = is_tiny ? tiny : normal < 0x7c00u ? normal : 0x7c00u;
    const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const uint32_t sign = magnitude > 0x7f800000u ? 0u : u >> 16 & 0x8000u;
    return uint16_t((magnitude >= 0x7f800000u ? special : finite) | sign);
}

// bits(value) = (upper << 16) + lower for every finite value. The upper half is the nearest bfloat16, of two equally
// near ones the larger in magnitude: with ties to even, `lower` would need 65537 values.
struct SplitFloat {
    uint16_t upper;
    int16_t lower;
};

FASTOPT_HD SplitFloat split(float x) {
    const uint32_t u = bits(x);
    const bool is_nan = x != x;
    return {uint16_t(is_nan ? 0x7fc0u : (u + 0x8000u) >> 16), int16_t(is_nan ? 0u : u)};
}

// A lower half that cannot belong to the upper one is dropped: somebody wrote a zero, an inf or a NaN there.
FASTOPT_HD float join(uint16_t upper, int16_t lower) {
    const uint32_t magnitude = upper & 0x7fffu;
    const uint32_t nearer = magnitude - uint32_t(lower < 0);
    return from_bits((uint32_t(upper) << 16) + (nearer < 0x7f80u ? uint32_t(int32_t(lower)) : 0u));
}

}  // namespace
}  // namespace fastopt
