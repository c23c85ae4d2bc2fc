// Sums of normalizations in lanes of the compute type, which are emptied into float64 before rounding matters.
#pragma once

#include "cpu/reductions.h"
#include "norm/formulas.h"

namespace fastopt {
namespace {

// Two sums, in lanes. They are empty at first: what is gathered into them need not be added to anything then.
template <class T>
struct alignas(64) Pair {
    T first[kLanes], second[kLanes];
    bool empty = true;
};

// Calls add(i, first, second) for each row of 32 elements, which adds to copies of both sums, and add_part() for what
// is left.
template <class T, class Add, class AddPart>
FASTOPT_HD void gather_pairs(Pair<T>& into, int n, Add add, AddPart add_part) {
    T first[kLanes], second[kLanes];
    if (into.empty) {
        for (int l = 0; l < kLanes; ++l) first[l] = second[l] = 0;
    } else {
        __builtin_memcpy(first, into.first, sizeof first);
        __builtin_memcpy(second, into.second, sizeof second);
    }
    const int full = n / kLanes * kLanes;
    for (int i = 0; i < full; i += kLanes) add(i, first, second);
    if (full < n) add_part(full, first, second);
    __builtin_memcpy(into.first, first, sizeof first);
    __builtin_memcpy(into.second, second, sizeof second);
    into.empty = false;
}

// The last elements of `values`, filled up to a full row with `filler`.
template <class Format, class T>
FASTOPT_HD void load_part(const typename Format::Storage* values, int n, T filler, T* row) {
    FASTOPT_VECTORIZE  // to masked loads, where the CPU has them
        for (int l = 0; l < kLanes; ++l) row[l] = l < n ? Format::load(values[l]) : filler;
}

template <bool kSquares, class T>
FASTOPT_HD void add_moments(const T* x, T shift, T* sums, T* squares) {
    for (int l = 0; l < kLanes; ++l) {
        const T delta = x[l] - shift;
        sums[l] += delta;
        if constexpr (kSquares) squares[l] += delta * delta;
    }
}

template <class T>
FASTOPT_HD void add_products(const T* grad, const T* x, T center, T* sums, T* products) {
    for (int l = 0; l < kLanes; ++l) {
        sums[l] += grad[l];
        products[l] += grad[l] * (x[l] - center);
    }
}

// Adds x - shift and, with `kSquares`, its square. The last row is filled up to 32 elements with `shift`, which adds
// nothing.
template <bool kSquares, class Format, class T>
void gather_moments(Pair<T>& into, const typename Format::Storage* __restrict values, int n, T shift) {
    gather_pairs(
        into, n,
        [values, shift](int i, T* sums, T* squares) {
            T buffer[kLanes];
            add_moments<kSquares>(row_of(Format(), values + i, buffer), shift, sums, squares);
        },
        [values, shift, n](int i, T* sums, T* squares) {
            T x[kLanes];
            load_part<Format>(values + i, n - i, shift, x);
            add_moments<kSquares>(x, shift, sums, squares);
        });
}

// Adds gradients and their products with x - center.
template <class Format, class T>
void gather_products(Pair<T>& into, const typename Format::Storage* __restrict grads,
                     const typename Format::Storage* __restrict values, int n, T center) {
    gather_pairs(
        into, n,
        [grads, values, center](int i, T* sums, T* products) {
            T grad_buffer[kLanes], buffer[kLanes];
            const T* const grad = row_of(Format(), grads + i, grad_buffer);
            add_products(grad, row_of(Format(), values + i, buffer), center, sums, products);
        },
        [grads, values, center, n](int i, T* sums, T* products) {
            T grad[kLanes], x[kLanes];
            load_part<Format>(grads + i, n - i, T(0), grad);
            load_part<Format>(values + i, n - i, center, x);
            add_products(grad, x, center, sums, products);
        });
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
    gather_pairs(
        into, n,
        [grads, values, weights, add](int i, T* sums, T* products) {
            T grad_buffer[kLanes], buffer[kLanes];
            const T* const grad = row_of(Format(), grads + i, grad_buffer);
            add(grad, row_of(Format(), values + i, buffer), weights + i, sums, products);
        },
        [grads, values, weights, add, center, n](int i, T* sums, T* products) {
            T grad[kLanes], x[kLanes], weight[kLanes];
            load_part<Format>(grads + i, n - i, T(0), grad);
            load_part<Format>(values + i, n - i, center, x);
            if constexpr (kWeight) load_part<Native<T>>(weights + i, n - i, T(0), weight);
            add(grad, x, weight, sums, products);
        });
}

// Adds squares of x.
template <class Format, class T>
void gather_squares(Pair<T>& into, const typename Format::Storage* __restrict values, int n) {
    const auto add = [](const T* x, T* squares) {
        for (int l = 0; l < kLanes; ++l) squares[l] += x[l] * x[l];
    };
    gather_pairs(
        into, n,
        [values, add](int i, T*, T* squares) {
            T buffer[kLanes];
            add(row_of(Format(), values + i, buffer), squares);
        },
        [values, add, n](int i, T*, T* squares) {
            T x[kLanes];
            load_part<Format>(values + i, n - i, T(0), x);
            add(x, squares);
        });
}

template <class T>
FASTOPT_NOINLINE double merged(const T* lanes) {
    double wide[kLanes];
    for (int l = 0; l < kLanes; ++l) wide[l] = double(lanes[l]);
    return merge(wide, kPlus);
}

// Sets that go through each step together: short ones would wait for one another's sums, divisions and roots.
constexpr int64_t kMostTogether = 16;

// Calls visit(first, last) for ranges of at most `most`.
template <class Visit>
FASTOPT_HD void for_batches(int64_t begin, int64_t end, int64_t most, Visit visit) {
    for (int64_t first = begin; first < end; first += most) visit(first, end - first < most ? end : first + most);
}

// The sums of several sets, merged.
struct MergedPairs {
    double first[kMostTogether], second[kMostTogether];
    template <class T>
    FASTOPT_HD MergedPairs(const Pair<T>* sums, int64_t count) {
        for (int64_t k = 0; k < count; ++k) {
            first[k] = merged(sums[k].first);
            second[k] = merged(sums[k].second);
        }
    }
};

}  // namespace
}  // namespace fastopt
