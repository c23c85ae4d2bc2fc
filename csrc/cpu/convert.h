// Rows of half-precision numbers to float32 and back.
#pragma once

#include "../half.h"
#include "../rules/sums.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace fastopt {
namespace {

template <class Half>
void widen(const uint16_t* __restrict from, float* __restrict to, int n) {
    for (int i = 0; i < n; ++i) to[i] = Half::load(from[i]);
}

template <class Half>
void narrow(const float* __restrict from, uint16_t* __restrict to, int n) {
    for (int i = 0; i < n; ++i) to[i] = Half::store(from[i]);
}

template <class Half>
FASTOPT_HD void widen_row(const uint16_t* from, float* to) {
    for (int l = 0; l < kLanes; ++l) to[l] = Half::load(from[l]);
}

// The instructions where the CPU has them, twice as fast as the compiler's vectors; the loops above are their tails and
// their twins, to the bit. As wide as the compiler's own vectors: a wider load waits for the stores of its parts.
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
void widen<Float16>(const uint16_t* __restrict from, float* __restrict to, int n) {
    int i = 0;
    for (; i + kHalves <= n; i += kHalves) widen_vector(from + i, to + i);
    for (; i < n; ++i) to[i] = Float16::load(from[i]);
}

template <>
void narrow<Float16>(const float* __restrict from, uint16_t* __restrict to, int n) {
    int i = 0;
    for (; i + kHalves <= n; i += kHalves) narrow_vector(from + i, to + i);
    for (; i < n; ++i) to[i] = Float16::store(from[i]);
}

template <>
FASTOPT_HD void widen_row<Float16>(const uint16_t* from, float* to) {
    for (int l = 0; l < kLanes; l += kHalves) widen_vector(from + l, to + l);
}
#endif

// What is in memory as it is computed with, beside the half types.
template <class T>
struct Native {
    using Storage = T;
    FASTOPT_HD static T load(T x) { return x; }
};

// 32 numbers, or the first `n`, in the compute type: those in memory, or `buffer`, which compilers keep in registers.
template <class T>
FASTOPT_HD const T* row_of(Native<T>, const T* from, int, T*) {
    return from;
}

template <class Half>
FASTOPT_HD const float* row_of(Half, const uint16_t* from, int n, float* buffer) {
    if (n < kLanes)
        for (int l = 0; l < n; ++l) buffer[l] = Half::load(from[l]);
    else
        widen_row<Half>(from, buffer);
    return buffer;
}

}  // namespace
}  // namespace fastopt
