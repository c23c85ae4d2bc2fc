// e^x and the normal distribution from IEEE operations only, because libm's results differ between machines.
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

FASTOPT_HD float power_of_two(float whole) {
    const uint32_t u = uint32_t(int32_t(whole) + 127) << 23;
    float x;
    __builtin_memcpy(&x, &u, sizeof x);
    return x;
}

FASTOPT_HD double power_of_two(double whole) {
    const uint64_t u = uint64_t(int64_t(int32_t(whole)) + 1023) << 52;
    double x;
    __builtin_memcpy(&x, &u, sizeof x);
    return x;
}

// c[0] + c[1] x + ... by Horner's rule.
template <int N, class T>
FASTOPT_HD T polynomial(const T (&c)[N], T x) {
    T sum = c[N - 1];
    for (int k = N - 2; k >= 0; --k) sum = sum * x + c[k];
    return sum;
}

// Constants by type. ln(2) has two parts: the first has so few bits that its multiples are exact.
template <class T>
struct Exponential;

template <>
struct Exponential<float> {
    static constexpr float low = -87, high = 88, round = 0x1.8p23f, ln2 = 0x1.62ep-1f, ln2_rest = 0x1.0bfbe8p-15f;
};

template <>
struct Exponential<double> {
    static constexpr double low = -708, high = 709, round = 0x1.8p52;
    static constexpr double ln2 = 0x1.62e42feep-1, ln2_rest = 0x1.a39ef35793c76p-33;
};

// (e^x - 1) / x for |x| <= ln(2) / 2
FASTOPT_HD float series(float x) {
    constexpr float c[] = {1.f, 1.f / 2, 1.f / 6, 1.f / 24, 1.f / 120, 1.f / 720, 1.f / 5040};
    return polynomial(c, x);
}

FASTOPT_HD double series(double x) {
    constexpr double c[] = {
        1.,         1. / 2,      1. / 6,       1. / 24,       1. / 120,       1. / 720,        1. / 5040,
        1. / 40320, 1. / 362880, 1. / 3628800, 1. / 39916800, 1. / 479001600, 1. / 6227020800, 1. / 87178291200};
    return polynomial(c, x);
}

// x = whole * ln(2) + rest, as 2^whole and rest. Clamps x to the range where 2^whole is a normal number.
template <class T>
struct Parts {
    T scale, rest;
};

template <class T>
FASTOPT_HD Parts<T> parts(T x) {
    using E = Exponential<T>;
    const T inside = clamp(x, E::low, E::high);
    const T whole = (inside * T(0x1.71547652b82fep0) + E::round) - E::round;  // 1 / ln(2)
    return {power_of_two(whole == whole ? whole : T(0)), (inside - whole * E::ln2) - whole * E::ln2_rest};
}

// e^x
template <class T>
FASTOPT_HD T exponential(T x) {
    const Parts<T> of = parts(x);
    return (series(of.rest) * of.rest + T(1)) * of.scale;
}

// e^x - 1
template <class T>
FASTOPT_HD T exponential_less_1(T x) {
    const Parts<T> of = parts(x);
    return series(of.rest) * of.rest * of.scale + (of.scale - T(1));
}

// P(X > a) of a normal variable X for a >= 0, divided by e^(-a^2/2): a polynomial in (a - 2) / (a + 2) from Chebyshev
// interpolation (tests/batch_norm/test_activations.py checks its error).
FASTOPT_HD float scaled_tail(float a) {
    constexpr float c[] = {0.168101993f,    -0.250953114f,    0.0900510686f,   0.00198039873f,
                           -0.00930428383f, -0.00156565916f,  0.00122527857f,  0.000692746918f,
                           -5.31684578e-5f, -0.000175037205f, -2.08943603e-5f, 2.06639317e-5f};
    return polynomial(c, (a - 2.f) / (a + 2.f));
}

FASTOPT_HD double scaled_tail(double a) {
    constexpr double c[] = {
        0.168102001223170815,     -0.250953111820365952,    0.0900504506834649311,    0.00198025015592031424,
        -0.00929698944678791002,  -0.00156382756262695166,  0.00119344563803053197,   0.000684060615171255817,
        0.0000105212810844472484, -0.000155052189004824587, -0.000080678852519997006, -3.21242531890492599e-6,
        0.0000206597771017334192, 0.0000139257288298810054, 2.89421389458523989e-6,   -2.2660392928784309e-6,
        -2.39122441976639314e-6,  -1.23513580493155394e-6,  -4.04871040893289575e-7,  3.81679808027102849e-7,
        7.04897446195007097e-7,   1.93708617458752066e-7,   -2.44343032630832375e-7,  -1.28756301867446851e-7,
        3.10236079420692861e-8,   2.20403695653555177e-8};
    return polynomial(c, (a - 2.) / (a + 2.));
}

// Density and distribution function of the normal distribution.
template <class T>
struct Normal {
    T density, below;
};

template <class T>
FASTOPT_HD Normal<T> normal(T z) {
    const T a = minimum(magnitude(z), T(1e4));  // so that its square is finite
    const T bell = exponential(a * a * T(-0.5));
    const T tail = scaled_tail(a) * bell;
    return {bell * T(0.3989422804014327), z < T(0) ? tail : T(1) - tail};  // 1 / sqrt(2 pi)
}

}  // namespace
}  // namespace fastopt
