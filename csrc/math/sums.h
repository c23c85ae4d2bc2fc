// Sums over all elements, and the norms made of them. csrc/cpu/reductions.h fixes their shape: 32 lanes.
#pragma once

#include "math/power.h"

namespace fastopt {
namespace {

constexpr int kLanes = 32;

// `p` is the exponent of a sum of powers; `norm` turns the whole sum into a norm.
struct Squares {
    static constexpr double start = 0;
    FASTOPT_HD static double term(double x, double) { return x * x; }
    FASTOPT_HD static double join(double a, double b) { return a + b; }
    FASTOPT_HD static double norm(double sum, double) { return square_root(sum); }
};

struct Magnitudes : Squares {
    FASTOPT_HD static double term(double x, double) { return magnitude(x); }
    FASTOPT_HD static double norm(double sum, double) { return sum; }
};

struct NonZeros : Magnitudes {
    FASTOPT_HD static double term(double x, double) { return x != 0 ? 1 : 0; }
};

struct Powers : Squares {
    FASTOPT_HD static double term(double x, double p) { return power(magnitude(x), p); }
    FASTOPT_HD static double norm(double sum, double p) { return power(sum, 1 / p); }
};

struct Largest : Magnitudes {
    FASTOPT_HD static double join(double a, double b) { return maximum(a, b); }
};

struct Smallest : Magnitudes {
    static constexpr double start = __builtin_inf();
    FASTOPT_HD static double join(double a, double b) { return minimum(a, b); }
};

}  // namespace
}  // namespace fastopt

// All sums, with the names Python uses.
#define FASTOPT_SUMS(SUM)         \
    SUM("squares", Squares)       \
    SUM("magnitudes", Magnitudes) \
    SUM("nonzeros", NonZeros)     \
    SUM("powers", Powers)         \
    SUM("largest", Largest)       \
    SUM("smallest", Smallest)
