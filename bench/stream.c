// What memory allows: loops that load the arrays a step loads, store those it stores, and do next to nothing
// in between. Every average stays near the gradient, so no value becomes denormal, infinite or constant.
// n is a multiple of LANES.
#include <stddef.h>

#define LANES 64

// Between two passes memory is as good as unknown: the compiler cannot join, swap or drop them.
#define BARRIER() __asm__ volatile("" ::: "memory")

#define MEAN(x) x[i] = 0.5f * (x[i] + g[i])

#define ELEMENTWISE(name, declare, body)                                        \
    float name(float *const *arrays, size_t n, size_t count) {                  \
        float *restrict p = arrays[0];                                          \
        const float *restrict g = arrays[1];                                    \
        declare;                                                                \
        for (; count; --count) {                                                \
            for (size_t i = 0; i < n; ++i) {                                    \
                body;                                                           \
                MEAN(p);                                                        \
            }                                                                   \
            BARRIER();                                                          \
        }                                                                       \
        return p[0];                                                            \
    }

#define STATE(name, k) float *restrict name = arrays[2 + k]

ELEMENTWISE(stream0, , )
ELEMENTWISE(stream1, STATE(s, 0), MEAN(s))
ELEMENTWISE(stream2, STATE(s, 0); STATE(t, 1), MEAN(s); MEAN(t))
ELEMENTWISE(stream3, STATE(s, 0); STATE(t, 1); STATE(u, 2), MEAN(s); MEAN(t); MEAN(u))

// Adafactor: the sums over parameter and gradient, those over the update, the update. Its row and column
// states are too small to count. A sum per lane is what lets the compiler vectorise.
float adafactor(float *const *arrays, size_t n, size_t count) {
    float *restrict p = arrays[0];
    const float *restrict g = arrays[1];
    float sums[LANES] = {0}, sum = 0;
    for (; count; --count) {
        for (size_t i = 0; i < n; i += LANES)
            for (size_t j = 0; j < LANES; ++j) sums[j] += p[i + j] * g[i + j];
        BARRIER();
        for (size_t i = 0; i < n; i += LANES)
            for (size_t j = 0; j < LANES; ++j) sums[j] += g[i + j];
        BARRIER();
        for (size_t i = 0; i < n; ++i) MEAN(p);
        BARRIER();
    }
    for (size_t j = 0; j < LANES; ++j) sum += sums[j];
    return sum;
}
