// Stores past the caches, for results larger than the caches: memory is not read before it is overwritten.
#pragma once

#include "common.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastopt {
namespace {

// Copies whole cache lines past the caches; the two ends are copied as usual.
FASTOPT_HD void stream(void* to, const void* from, size_t bytes) {
#if defined(__SSE2__)
    constexpr size_t line = 64;
    char* out = static_cast<char*>(to);
    const char* in = static_cast<const char*>(from);
    const size_t ahead = -reinterpret_cast<uintptr_t>(to) % line, head = ahead < bytes ? ahead : bytes;
    __builtin_memcpy(out, in, head);
    out += head, in += head, bytes -= head;
    for (; bytes >= line; out += line, in += line, bytes -= line) {
#if defined(__AVX512F__)
        _mm512_stream_si512(reinterpret_cast<__m512i*>(out), _mm512_loadu_si512(in));
#else
        for (size_t k = 0; k < line; k += 16)
            _mm_stream_si128(reinterpret_cast<__m128i*>(out + k),
                             _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + k)));
#endif
    }
    __builtin_memcpy(out, in, bytes);
#else
    __builtin_memcpy(to, from, bytes);
#endif
}

// Call this before telling other threads that the results are there.
FASTOPT_HD void finish_streams() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

}  // namespace
}  // namespace fastopt
