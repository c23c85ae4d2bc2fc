// Qualifiers and vector types of CUDA.
#pragma once

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct uint3 {
    unsigned x, y, z;
};

#define EMULATOR_VECTORS(element, name)                                                               \
    struct __align__(2 * sizeof(element)) name##2 { element x, y; };                                  \
    struct __align__(sizeof(element) < 8 ? 4 * sizeof(element) : 16) name##4 { element x, y, z, w; }; \
    constexpr name##2 make_##name##2(element x, element y) { return {x, y}; }                         \
    constexpr name##4 make_##name##4(element x, element y, element z, element w) { return {x, y, z, w}; }

EMULATOR_VECTORS(int, int)
EMULATOR_VECTORS(unsigned, uint)
EMULATOR_VECTORS(unsigned short, ushort)
EMULATOR_VECTORS(long long, longlong)
EMULATOR_VECTORS(unsigned long long, ulonglong)
EMULATOR_VECTORS(float, float)
EMULATOR_VECTORS(double, double)
#undef EMULATOR_VECTORS
