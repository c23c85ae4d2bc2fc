// Converts bfloat16 and float16 to float32 and back, rounding to nearest even, on bit patterns: without branches, so
// that compilers vectorise it on every ISA, and without denormal operands, which are slow and which flush-to-zero modes
// would change. Every NaN is stored as the same quiet NaN.
#pragma once

#include "common.h"

#if defined(__CUDA_ARCH__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace fastopt {
namespace {

FASTOPT_HD uint32_t bits(float x) {
    uint32_t u;
    __builtin_memcpy(&u, &x, sizeof u);
    return u;
}

FASTOPT_HD float from_bits(uint32_t u) {
    float x;
    __builtin_memcpy(&x, &u, sizeof x);
    return x;
}

struct BFloat16 {
    using Storage = uint16_t;
    FASTOPT_HD static float load(uint16_t h) { return from_bits(uint32_t(h) << 16); }
#if defined(__CUDA_ARCH__)  // the GPU's instructions, because the bit patterns below would cost more than memory does
    FASTOPT_HD static uint16_t store(float x) {
        return x != x ? uint16_t(0x7fc0u) : __bfloat16_as_ushort(__float2bfloat16_rn(x));
    }
#else
    FASTOPT_HD static uint16_t store(float x) {
        const uint32_t u = bits(x);
        const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
        return uint16_t(x != x ? 0x7fc0u : rounded);
    }
#endif
};

struct Float16 {
    using Storage = uint16_t;
#if defined(__CUDA_ARCH__)
    FASTOPT_HD static float load(uint16_t h) { return __half2float(__ushort_as_half(h)); }
    FASTOPT_HD static uint16_t store(float x) {
        return x != x ? uint16_t(0x7e00u) : __half_as_ushort(__float2half_rn(x));
    }
#else
    FASTOPT_HD static float load(uint16_t h) {
        const uint32_t magnitude = uint32_t(h & 0x7fffu) << 13;
        const uint32_t normal = magnitude + (112u << 23);                            // 112: difference of the biases
        const uint32_t special = magnitude | 0x7f800000u;                            // inf, NaN
        const uint32_t tiny = bits(from_bits(magnitude + (113u << 23)) - 0x1p-14f);  // subnormal
        const uint32_t exponent = magnitude & 0x0f800000u;
        const uint32_t u = exponent == 0x0f800000u ? special : exponent == 0 ? tiny : normal;
        return from_bits(u | uint32_t(h & 0x8000u) << 16);
    }
    FASTOPT_HD static uint16_t store(float x) {
        const uint32_t u = bits(x);
        const uint32_t magnitude = u & 0x7fffffffu;
        const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
        // Adding 0.5 leaves the bits of a float16 subnormal at the bottom, rounded by the FPU.
        const uint32_t tiny = bits(from_bits(magnitude) + 0.5f) - bits(0.5f);
        const uint32_t finite = magnitude < (113u << 23) ? tiny : normal;
        const uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u | (u >> 16 & 0x8000u);
        return uint16_t(magnitude >= (143u << 23) ? large : finite | (u >> 16 & 0x8000u));
    }
#endif
};

}  // namespace
}  // namespace fastopt
