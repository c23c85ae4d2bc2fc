// The few functions a rule may call: only IEEE operations and selections in a fixed order, no FMA, no approximations,
// so that every device and the NumPy reference give the same bits.
#pragma once

#include "common.h"

namespace fastopt {
namespace {

FASTOPT_HD float square_root(float x) { return __builtin_sqrtf(x); }
FASTOPT_HD double square_root(double x) { return __builtin_sqrt(x); }

FASTOPT_HD float magnitude(float x) { return __builtin_fabsf(x); }
FASTOPT_HD double magnitude(double x) { return __builtin_fabs(x); }

// The C library's pow, like Python's **: the only function here whose last bits differ between machines; scalars only.
FASTOPT_HD double libm_pow(double x, double p) { return __builtin_pow(x, p); }

FASTOPT_HD constexpr float largest(float) { return __FLT_MAX__; }
FASTOPT_HD constexpr double largest(double) { return __DBL_MAX__; }

// NaN if either operand is NaN.
template <class T>
FASTOPT_HD T maximum(T a, T b) {
    return a > b || a != a ? a : b;
}

template <class T>
FASTOPT_HD T minimum(T a, T b) {
    return a < b || a != a ? a : b;
}

// Returns NaN for NaN.
template <class T>
FASTOPT_HD T clamp(T x, T low, T high) {
    const T raised = x < low ? low : x;
    return raised > high ? high : raised;
}

// Interpolates from a to b, and gives exactly b at weight 1: like torch.lerp, it starts from the nearer end.
template <class T>
FASTOPT_HD T lerp(T a, T b, T weight) {
    return weight < T(0.5) ? a + weight * (b - a) : b - (T(1) - weight) * (b - a);
}

// Returns zero (with its sign) and NaN unchanged.
template <class T>
FASTOPT_HD T sign(T x) {
    return x > T(0) ? T(1) : x < T(0) ? T(-1) : x;
}

}  // namespace
}  // namespace fastopt
