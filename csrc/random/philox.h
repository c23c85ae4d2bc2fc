// Philox4x32-10 of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011): turns a counter and a key
// into 128 random bits. There is no state between calls.
#pragma once

#include "common.h"

namespace fastopt {
namespace {

struct Philox {
    static constexpr int rounds = 10;
    static constexpr uint32_t multiplier0 = 0xD2511F53u, multiplier1 = 0xCD9E8D57u;
    static constexpr uint32_t weyl0 = 0x9E3779B9u, weyl1 = 0xBB67AE85u;  // added to the key in every round

    uint32_t word[4];

    FASTOPT_HD static uint64_t product(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)  // nvcc treats the factors as 64-bit numbers, and adds the product of their upper halves
        uint64_t wide;
        asm("mul.wide.u32 %0, %1, %2;" : "=l"(wide) : "r"(a), "r"(b));
        return wide;
#else
        return uint64_t(a) * b;
#endif
    }

    // Counter and key are given as 64-bit numbers, the low words first.
    FASTOPT_HD static Philox block(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
        uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
        uint32_t c0 = uint32_t(counter_low), c1 = uint32_t(counter_low >> 32);
        uint32_t c2 = uint32_t(counter_high), c3 = uint32_t(counter_high >> 32);
        for (int round = 0; round < rounds; ++round) {
            const uint64_t p0 = product(c0, multiplier0), p1 = product(c2, multiplier1);
            c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
            c1 = uint32_t(p1);
            c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
            c3 = uint32_t(p0);
            k0 += weyl0;
            k1 += weyl1;
        }
        return {{c0, c1, c2, c3}};
    }
};

}  // namespace
}  // namespace fastopt
