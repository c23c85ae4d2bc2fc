// Philox in vectors of several counters. Compilers do not find the instruction that multiplies 32 bits by 32 into 64,
// so the code names it; random/philox.h is the scalar twin.
#pragma once

#include "random/mask.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastopt {
namespace {

// A 64-bit lane holds 32 bits of one counter; its upper half is ignored.
#if defined(__AVX512F__)
constexpr int kCounters = 8;
#elif defined(__AVX2__)
constexpr int kCounters = 4;
#else
constexpr int kCounters = 2;
#endif
using Lanes = uint64_t __attribute__((vector_size(8 * kCounters)));

FASTOPT_HD Lanes splat(uint64_t x) { return Lanes{} + x; }

// multiply() takes the low halves of each lane; even() and odd() interleave the even or the odd lanes of a and b.
#if defined(__AVX512F__)
// The masked forms with all bits set: GCC 12 warns about the plain forms, and compiles both to the same instructions.
FASTOPT_HD Lanes multiply(Lanes a, Lanes b) { return (Lanes)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b); }
FASTOPT_HD Lanes even(Lanes a, Lanes b) { return (Lanes)_mm512_maskz_unpacklo_epi64(0xff, (__m512i)a, (__m512i)b); }
FASTOPT_HD Lanes odd(Lanes a, Lanes b) { return (Lanes)_mm512_maskz_unpackhi_epi64(0xff, (__m512i)a, (__m512i)b); }
#elif defined(__AVX2__)
FASTOPT_HD Lanes multiply(Lanes a, Lanes b) { return (Lanes)_mm256_mul_epu32((__m256i)a, (__m256i)b); }
FASTOPT_HD Lanes even(Lanes a, Lanes b) { return (Lanes)_mm256_unpacklo_epi64((__m256i)a, (__m256i)b); }
FASTOPT_HD Lanes odd(Lanes a, Lanes b) { return (Lanes)_mm256_unpackhi_epi64((__m256i)a, (__m256i)b); }
#else
#if defined(__SSE2__)
FASTOPT_HD Lanes multiply(Lanes a, Lanes b) { return (Lanes)_mm_mul_epu32((__m128i)a, (__m128i)b); }
#else
FASTOPT_HD Lanes multiply(Lanes a, Lanes b) { return (a & 0xffffffffu) * (b & 0xffffffffu); }
#endif
FASTOPT_HD Lanes even(Lanes a, Lanes b) { return Lanes{a[0], b[0]}; }
FASTOPT_HD Lanes odd(Lanes a, Lanes b) { return Lanes{a[1], b[1]}; }
#endif

// Both words of the key in each round. In memory, from where a word is read into all lanes at once: the way there from
// a scalar register costs as much as a round's multiplications.
struct RoundKeys {
    uint64_t word[Philox::rounds][2];
};

FASTOPT_HD RoundKeys round_keys(uint64_t seed) {
    RoundKeys keys;
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (auto& words : keys.word) {
        words[0] = k0;
        words[1] = k1;
        k0 += Philox::weyl0;
        k1 += Philox::weyl1;
    }
    return keys;
}

// Vectors whose rounds are interleaved, because one alone would wait for its multiplications. All loops are unrolled
// to keep the state in registers, without copies between rounds or through memory.
constexpr int kInterleaved = 4;

// Blocks of the counters (first, offset), (first + 1, offset), ...: V vectors of counters, eight 16-bit numbers per
// block.
template <int V>
FASTOPT_HD void random_blocks(const RoundKeys& keys, uint64_t offset, uint64_t first, uint16_t* out) {
    Lanes lane{};
    for (int i = 0; i < kCounters; ++i)
        lane[i] = uint64_t(i / 2 + i % 2 * (kCounters / 2));  // the order in which the blocks are stored
    Lanes c0[V], c1[V], c2[V], c3[V];
    for (int v = 0; v < V; ++v) {
        c0[v] = lane + (first + uint64_t(v * kCounters));
        c1[v] = c0[v] >> 32;
        c2[v] = splat(offset);
        c3[v] = splat(offset >> 32);
    }
#pragma GCC unroll 10
    for (int round = 0; round < Philox::rounds; ++round) {
        for (int v = 0; v < V; ++v) {
            const Lanes p0 = multiply(c0[v], splat(Philox::multiplier0));
            const Lanes p1 = multiply(c2[v], splat(Philox::multiplier1));
            c0[v] = (p1 >> 32) ^ c1[v] ^ splat(keys.word[round][0]);
            c1[v] = p1;
            c2[v] = (p0 >> 32) ^ c3[v] ^ splat(keys.word[round][1]);
            c3[v] = p0;
        }
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
        // Pairs words 0 and 1 of each block, and words 2 and 3, then joins both pairs.
        const Lanes low = (c0[v] & 0xffffffffu) | c1[v] << 32;
        const Lanes high = (c2[v] & 0xffffffffu) | c3[v] << 32;
        const Lanes pairs[2] = {even(low, high), odd(low, high)};
        __builtin_memcpy(out + v * kCounters * kElementsPerBlock, pairs, sizeof pairs);
    }
}

}  // namespace
}  // namespace fastopt
