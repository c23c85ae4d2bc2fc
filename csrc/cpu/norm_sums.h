// Sums of batch normalization in lanes of the compute type, emptied into float64 before rounding matters.
#pragma once

#include "../norm/batch_norm.h"
#include "reductions.h"

namespace fastopt {
namespace {

// Two sums side by side, in lanes.
template <class T>
struct alignas(64) Pair {
    T first[kLanes], second[kLanes];
};

// Of the terms that `add` makes from 32 elements at a time; `pad` makes the last ones up to 32.
template <class T, class Add>
FASTOPT_HD void gather_pairs(Pair<T>& into, int n, Add add) {
    T first[kLanes], second[kLanes];
    __builtin_memcpy(first, into.first, sizeof first);
    __builtin_memcpy(second, into.second, sizeof second);
    for (int i = 0; i < n; i += kLanes)
        for (int l = 0; l < kLanes; ++l) add(i + l, first[l], second[l]);
    __builtin_memcpy(into.first, first, sizeof first);
    __builtin_memcpy(into.second, second, sizeof second);
}

// The last lanes of `values`, made up to a full row with `filler`, which adds nothing to the sums.
template <class T>
FASTOPT_HD void fill_row(T* __restrict row, const T* __restrict values, int n, T filler) {
    for (int l = 0; l < kLanes; ++l) row[l] = filler;
    __builtin_memcpy(row, values, size_t(n) * sizeof(T));
}

// Of x - shift, and of their squares.
template <class T>
void gather_moments(Pair<T>& into, const T* __restrict values, int n, T shift) {
    const auto rows = [&](const T* __restrict x, int count) {
        gather_pairs(into, count, [x, shift](int i, T& sum, T& squares) {
            const T delta = x[i] - shift;
            sum += delta;
            squares += delta * delta;
        });
    };
    const int full = n / kLanes * kLanes;
    rows(values, full);
    if (full == n) return;
    alignas(64) T row[kLanes];
    fill_row(row, values + full, n - full, shift);
    rows(row, kLanes);
}

// Of gradients, and of their products with x - center.
template <class T>
void gather_products(Pair<T>& into, const T* __restrict grad, const T* __restrict values, int n, T center) {
    const auto rows = [&](const T* __restrict g, const T* __restrict x, int count) {
        gather_pairs(into, count, [g, x, center](int i, T& sum, T& products) {
            sum += g[i];
            products += g[i] * (x[i] - center);
        });
    };
    const int full = n / kLanes * kLanes;
    rows(grad, values, full);
    if (full == n) return;
    alignas(64) T row[kLanes], grad_row[kLanes];
    fill_row(row, values + full, n - full, center);
    fill_row(grad_row, grad + full, n - full, T(0));
    rows(grad_row, row, kLanes);
}

template <class T>
double merged(const T* lanes) {
    double wide[kLanes];
    for (int l = 0; l < kLanes; ++l) wide[l] = double(lanes[l]);
    return merge(wide, kPlus);
}

}  // namespace
}  // namespace fastopt
