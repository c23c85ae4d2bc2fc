// Converts rows of half-precision numbers to float32 and back.
#pragma once

#include "math/half.h"
#include "math/sums.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

// For loops that need all registers, which they would share with their surroundings if inlined, and for long functions
// with many callers.
#define FASTOPT_NOINLINE __attribute__((noinline))

namespace fastopt {
namespace {

template <class Half>
FASTOPT_NOINLINE void widen(const uint16_t* __restrict from, float* __restrict to, int n) {
    for (int i = 0; i < n; ++i) to[i] = Half::load(from[i]);
}

template <class Half>
FASTOPT_NOINLINE void narrow(const float* __restrict from, uint16_t* __restrict to, int n) {
    for (int i = 0; i < n; ++i) to[i] = Half::store(from[i]);
}

template <class Half>
FASTOPT_HD void widen_row(const uint16_t* from, float* to) {
    for (int l = 0; l < kLanes; ++l) to[l] = Half::load(from[l]);
}

// The CPU's conversion instructions are faster than the compiler's vectors; the loops above handle the tails and give
// the same bits. Vectors are as wide as the compiler's: a wider load would wait for several narrower stores.
#if defined(__AVX512BW__)
constexpr int kHalves = 16;

FASTOPT_HD void widen_vector(const uint16_t* from, float* to) {
    _mm512_storeu_ps(to, _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
}

FASTOPT_HD void narrow_vector(const float* from, uint16_t* to) {
    const __m512 x = _mm512_loadu_ps(from);
    const __m256i half = _mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_mask_set1_epi16(half, nan, 0x7e00));
}
#elif defined(__F16C__)
constexpr int kHalves = 8;

FASTOPT_HD void widen_vector(const uint16_t* from, float* to) {
    _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}

FASTOPT_HD void narrow_vector(const float* from, uint16_t* to) {
    const __m256 x = _mm256_loadu_ps(from), nan = _mm256_set1_ps(__builtin_nanf(""));
    const __m256 one_nan = _mm256_blendv_ps(x, nan, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m128i half = _mm256_cvtps_ph(one_nan, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), half);
}
#endif

#if defined(__F16C__)
template <>
FASTOPT_NOINLINE void widen<Float16>(const uint16_t* __restrict from, float* __restrict to, int n) {
    int i = 0;
    for (; i + kHalves <= n; i += kHalves) widen_vector(from + i, to + i);
    for (; i < n; ++i) to[i] = Float16::load(from[i]);
}

template <>
FASTOPT_NOINLINE void narrow<Float16>(const float* __restrict from, uint16_t* __restrict to, int n) {
    int i = 0;
    for (; i + kHalves <= n; i += kHalves) narrow_vector(from + i, to + i);
    for (; i < n; ++i) to[i] = Float16::store(from[i]);
}

template <>
FASTOPT_HD void widen_row<Float16>(const uint16_t* from, float* to) {
    for (int l = 0; l < kLanes; l += kHalves) widen_vector(from + l, to + l);
}
#endif

#if defined(__AVX512BW__)
// Integer operations, because the CPU's own instruction treats subnormal numbers as 0.
FASTOPT_HD __m512i round_to_bfloat16(__m512i x) {
    const __mmask16 odd = _mm512_test_epi32_mask(x, _mm512_set1_epi32(0x10000));
    const __m512i below = _mm512_add_epi32(x, _mm512_set1_epi32(0x7fff));
    const __m512i rounded = _mm512_mask_add_epi32(below, odd, x, _mm512_set1_epi32(0x8000));
    const __m512 value = _mm512_castsi512_ps(x);
    return _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q),
                                 _mm512_set1_epi32(0x7fc00000));
}

// Picks the upper halves of 32 rounded numbers at once; compilers would shift and narrow each 16.
FASTOPT_HD __m512i narrow_both(__m512i low, __m512i high) {
    alignas(64) static constexpr uint16_t upper[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                       33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    return _mm512_permutex2var_epi16(round_to_bfloat16(low), _mm512_load_si512(upper), round_to_bfloat16(high));
}

template <>
FASTOPT_NOINLINE void narrow<BFloat16>(const float* __restrict from, uint16_t* __restrict to, int n) {
    int i = 0;
    for (; i + 32 <= n; i += 32)
        _mm512_storeu_si512(to + i, narrow_both(_mm512_loadu_si512(from + i), _mm512_loadu_si512(from + i + 16)));
    if (i == n) return;
    const __mmask32 rest = (__mmask32(1) << (n - i)) - 1;
    const __m512i low = _mm512_maskz_loadu_epi32(__mmask16(rest), from + i);
    const __m512i high = _mm512_maskz_loadu_epi32(__mmask16(rest >> 16), from + i + 16);
    _mm512_mask_storeu_epi16(to + i, rest, narrow_both(low, high));
}
#endif

// Numbers whose storage type is the compute type: all but the half types.
template <class T>
struct Native {
    using Storage = T;
    FASTOPT_HD static T load(T x) { return x; }
    FASTOPT_HD static T store(T x) { return x; }
};

// What a loop that converts as it reads takes: numbers as they are stored. float16 is converted into `buffer` first,
// because compilers do not find its instructions.
template <class Format, class T>
struct Readable {
    using Read = Format;
    FASTOPT_HD static const typename Format::Storage* from(const typename Format::Storage* x, int, T*) { return x; }
};

#if defined(__F16C__)
template <>
struct Readable<Float16, float> {
    using Read = Native<float>;
    FASTOPT_HD static const float* from(const uint16_t* x, int n, float* buffer) {
        widen<Float16>(x, buffer, n);
        return buffer;
    }
};
#endif

// 32 numbers in the compute type: in memory, or in `buffer`, which compilers keep in registers.
template <class T>
FASTOPT_HD const T* row_of(Native<T>, const T* from, T*) {
    return from;
}

template <class Half>
FASTOPT_HD const float* row_of(Half, const uint16_t* from, float* buffer) {
    widen_row<Half>(from, buffer);
    return buffer;
}

}  // namespace
}  // namespace fastopt
