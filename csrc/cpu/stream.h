// Stores past the caches: of what is larger than they are. They spare memory the reading of what is overwritten.
#pragma once

#include "../common.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastopt {
namespace {

// Whole cache lines only; otherwise nothing is done, and the answer is false.
FASTOPT_HD bool stream([[maybe_unused]] void* to, [[maybe_unused]] const void* from, [[maybe_unused]] size_t bytes) {
#if defined(__SSE2__)
    constexpr size_t line = 64;
    if (reinterpret_cast<uintptr_t>(to) % line != 0 || bytes % line != 0) return false;
    char* const out = static_cast<char*>(to);
    const char* const in = static_cast<const char*>(from);
    for (size_t i = 0; i < bytes; i += line) {
#if defined(__AVX512F__)
        _mm512_stream_si512(reinterpret_cast<__m512i*>(out + i), _mm512_loadu_si512(in + i));
#else
        for (size_t k = i; k < i + line; k += 16)
            _mm_stream_si128(reinterpret_cast<__m128i*>(out + k),
                             _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + k)));
#endif
    }
    return true;
#else
    return false;
#endif
}

// Before others are told that the results are there.
FASTOPT_HD void finish_streams() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

}  // namespace
}  // namespace fastopt
