// States in 8 bits (math/codes.h): from a block's numbers to its codes, and back.
#pragma once

#include "cpu/block.h"
#include "math/codes.h"

namespace fastopt {
namespace {

using Four = int32_t __attribute__((vector_size(16)));
using Eight = int32_t __attribute__((vector_size(32)));
constexpr int kFour = 4 * kCodeBlock;  // elements of four blocks

FASTOPT_HD Four larger(Four a, Four b) { return a > b ? a : b; }

// The bits of the largest magnitudes of four blocks. As integers: a maximum of floats could lose a NaN. Four at once,
// because reducing one vector to one number takes longer than coding a block.
FASTOPT_HD Four largest_magnitudes(const float* from) {
    Four rows[4], pairs[2];
    for (int block = 0; block < 4; ++block) {
        Eight all{};
        for (int i = 0; i < kCodeBlock; i += 8) {
            Eight part;
            __builtin_memcpy(&part, from + block * kCodeBlock + i, sizeof part);
            part &= 0x7fffffff;
            all = all > part ? all : part;
        }
        rows[block] = larger(Four{all[0], all[1], all[2], all[3]}, Four{all[4], all[5], all[6], all[7]});
    }
    const auto merged = [](Four a, Four b) {
        return larger(Four{a[0], b[0], a[1], b[1]}, Four{a[2], b[2], a[3], b[3]});
    };
    for (int i = 0; i < 2; ++i) pairs[i] = merged(rows[i], rows[i + 2]);
    return merged(pairs[0], pairs[1]);
}

// The functions below take four blocks.

// The scale of each block and its reciprocal: code_scale() and reciprocal_of_scale() in vectors.
FASTOPT_NOINLINE void measure(const float* from, float* scales, float* reciprocals) {
    using Floats = float __attribute__((vector_size(16)));
    const Four largest = largest_magnitudes(from), normal = largest >= 0x00800000, finite = largest < 0x7f800000;
    const Four scale = ((largest & finite) | (0x7fc00000 & ~finite)) & normal;
    const Four reciprocal = Four(1.0f / Floats(scale)) & finite & normal;
    __builtin_memcpy(scales, &scale, sizeof scale);
    __builtin_memcpy(reciprocals, &reciprocal, sizeof reciprocal);
}

// encode() and decode() have two loops, because compilers vectorise best where all types have one size.
template <class Code>
FASTOPT_NOINLINE void encode(const float* __restrict from, const float* __restrict reciprocals,
                             typename Code::Storage* __restrict codes) {
    alignas(64) uint32_t words[kFour];
    for (int block = 0; block < 4; ++block) {
        const float reciprocal = reciprocals[block];
        FASTOPT_VECTORIZE
        for (int i = block * kCodeBlock; i < (block + 1) * kCodeBlock; ++i)
            words[i] = Code::encode(from[i], reciprocal);
    }
    FASTOPT_VECTORIZE
    for (int i = 0; i < kFour; ++i) codes[i] = typename Code::Storage(words[i]);
}

template <class Code>
FASTOPT_NOINLINE void decode(const typename Code::Storage* __restrict codes, const float* __restrict scales,
                             float* __restrict to) {
    FASTOPT_VECTORIZE
    for (int i = 0; i < kFour; ++i) to[i] = float(int32_t(codes[i]));
    for (int block = 0; block < 4; ++block) {
        const float scale = scales[block];
        FASTOPT_VECTORIZE
        for (int i = block * kCodeBlock; i < (block + 1) * kCodeBlock; ++i) to[i] = Code::decode(to[i], scale);
    }
}

// The functions below take n elements. Numbers lie in a buffer of whole fours of blocks, which decode() fills up with
// zeros. Codes and scales lie in tensors, which end after the last one: fewer than four blocks of them are copied.

FASTOPT_HD size_t scale_bytes(int n) { return size_t((n + kCodeBlock - 1) / kCodeBlock) * sizeof(float); }

template <class Code>
void decode(const typename Code::Storage* codes, const float* scales, float* to, int n) {
    for (; n >= kFour; n -= kFour, codes += kFour, scales += 4, to += kFour) decode<Code>(codes, scales, to);
    if (n == 0) return;
    typename Code::Storage last[kFour] = {};
    float last_scales[4] = {};
    __builtin_memcpy(last, codes, size_t(n));
    __builtin_memcpy(last_scales, scales, scale_bytes(n));
    decode<Code>(last, last_scales, to);
    __builtin_memset(to + n, 0, size_t(kFour - n) * sizeof(float));  // they would be NaN where the scale is
}

FASTOPT_HD void measure(const float* from, float* scales, float* reciprocals, int n) {
    for (; n >= kFour; n -= kFour, from += kFour, scales += 4, reciprocals += 4) measure(from, scales, reciprocals);
    if (n == 0) return;
    float last[4];
    measure(from, last, reciprocals);
    __builtin_memcpy(scales, last, scale_bytes(n));
}

template <class Code>
void encode(const float* from, const float* reciprocals, typename Code::Storage* codes, int n) {
    for (; n >= kFour; n -= kFour, from += kFour, reciprocals += 4, codes += kFour)
        encode<Code>(from, reciprocals, codes);
    if (n == 0) return;
    typename Code::Storage last[kFour];
    encode<Code>(from, reciprocals, last);
    __builtin_memcpy(codes, last, size_t(n));
}

}  // namespace
}  // namespace fastopt
