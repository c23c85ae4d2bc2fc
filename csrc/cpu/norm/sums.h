// Sums of normalizations in lanes of the compute type, which are emptied into float64 before rounding matters.
#pragma once

#include "cpu/reductions.h"
#include "norm/formulas.h"

namespace fastopt {
namespace {

// Two sums, in lanes.
template <class T>
struct alignas(64) Pair {
    T first[kLanes], second[kLanes];
};

// Calls add(i, first, second) for each row of 32 elements, which adds to copies of both sums.
template <class T, class Add>
FASTOPT_HD void gather_pairs(Pair<T>& into, int n, Add add) {
    T first[kLanes], second[kLanes];
    __builtin_memcpy(first, into.first, sizeof first);
    __builtin_memcpy(second, into.second, sizeof second);
    for (int i = 0; i < n; i += kLanes) add(i, first, second);
    __builtin_memcpy(into.first, first, sizeof first);
    __builtin_memcpy(into.second, second, sizeof second);
}

// The last elements of `values`, filled up to a full row with `filler`.
template <class Format, class T>
FASTOPT_HD void load_part(const typename Format::Storage* values, int n, T filler, T* row) {
    FASTOPT_VECTORIZE  // to masked loads, where the CPU has them
        for (int l = 0; l < kLanes; ++l) row[l] = l < n ? Format::load(values[l]) : filler;
}

template <class T>
FASTOPT_HD void add_moments(const T* x, T shift, T* sums, T* squares) {
    for (int l = 0; l < kLanes; ++l) {
        const T delta = x[l] - shift;
        sums[l] += delta;
        squares[l] += delta * delta;
    }
}

template <class T>
FASTOPT_HD void add_products(const T* grad, const T* x, T center, T* sums, T* products) {
    for (int l = 0; l < kLanes; ++l) {
        sums[l] += grad[l];
        products[l] += grad[l] * (x[l] - center);
    }
}

// Adds x - shift and its square. The last row is filled up to 32 elements with `shift`, which adds nothing.
template <class Format, class T>
void gather_moments(Pair<T>& into, const typename Format::Storage* __restrict values, int n, T shift) {
    const int full = n / kLanes * kLanes;
    gather_pairs(into, full, [values, shift](int i, T* sums, T* squares) {
        T buffer[kLanes];
        add_moments(row_of(Format(), values + i, buffer), shift, sums, squares);
    });
    if (full == n) return;
    T x[kLanes];
    load_part<Format>(values + full, n - full, shift, x);
    add_moments(x, shift, into.first, into.second);
}

// Adds gradients and their products with x - center.
template <class Format, class T>
void gather_products(Pair<T>& into, const typename Format::Storage* __restrict grads,
                     const typename Format::Storage* __restrict values, int n, T center) {
    const int full = n / kLanes * kLanes;
    gather_pairs(into, full, [grads, values, center](int i, T* sums, T* products) {
        T grad_buffer[kLanes], buffer[kLanes];
        const T* const grad = row_of(Format(), grads + i, grad_buffer);
        add_products(grad, row_of(Format(), values + i, buffer), center, sums, products);
    });
    if (full == n) return;
    T grad[kLanes], x[kLanes];
    load_part<Format>(grads + full, n - full, T(0), grad);
    load_part<Format>(values + full, n - full, center, x);
    add_products(grad, x, center, into.first, into.second);
}

// The same where each element has a weight, which multiplies its gradient; null stands for weights of 1. Without
// `kCentered`, the products are those with x, and the gradients are not added.
template <bool kCentered, bool kWeight, class Format, class T>
FASTOPT_NOINLINE void gather_weighted(Pair<T>& into, const typename Format::Storage* __restrict grads,
                                      const typename Format::Storage* __restrict values, const T* __restrict weights,
                                      int n, T center) {
    const auto add = [center](const T* grad, const T* x, const T* weight, T* sums, T* products) {
        for (int l = 0; l < kLanes; ++l) {
            const T g = kWeight ? grad[l] * weight[l] : grad[l];
            if constexpr (kCentered) sums[l] += g;
            products[l] += g * (kCentered ? x[l] - center : x[l]);
        }
    };
    const int full = n / kLanes * kLanes;
    gather_pairs(into, full, [grads, values, weights, add](int i, T* sums, T* products) {
        T grad_buffer[kLanes], buffer[kLanes];
        const T* const grad = row_of(Format(), grads + i, grad_buffer);
        add(grad, row_of(Format(), values + i, buffer), weights + i, sums, products);
    });
    if (full == n) return;
    T grad[kLanes], x[kLanes], weight[kLanes];
    load_part<Format>(grads + full, n - full, T(0), grad);
    load_part<Format>(values + full, n - full, center, x);
    if constexpr (kWeight) load_part<Native<T>>(weights + full, n - full, T(0), weight);
    add(grad, x, weight, into.first, into.second);
}

// Adds squares of x.
template <class Format, class T>
void gather_squares(Pair<T>& into, const typename Format::Storage* __restrict values, int n) {
    const auto add = [](const T* x, T* squares) {
        for (int l = 0; l < kLanes; ++l) squares[l] += x[l] * x[l];
    };
    const int full = n / kLanes * kLanes;
    T squares[kLanes];
    __builtin_memcpy(squares, into.second, sizeof squares);
    for (int i = 0; i < full; i += kLanes) {
        T buffer[kLanes];
        add(row_of(Format(), values + i, buffer), squares);
    }
    __builtin_memcpy(into.second, squares, sizeof squares);
    if (full == n) return;
    T x[kLanes];
    load_part<Format>(values + full, n - full, T(0), x);
    add(x, into.second);
}

template <class T>
double merged(const T* lanes) {
    double wide[kLanes];
    for (int l = 0; l < kLanes; ++l) wide[l] = double(lanes[l]);
    return merge(wide, kPlus);
}

}  // namespace
}  // namespace fastopt
