// The element loops of rows, whose elements have a weight each, for layer and for RMS normalization.
#pragma once

#include "cpu/norm/loops.h"
#include "cpu/norm/sums.h"

namespace fastopt {
namespace {

// Layer normalization: rows have a mean and, with a weight, perhaps a bias.
struct Layer {
    static constexpr bool centered = true;
    template <class T>
    FASTOPT_HD static T normalized(T x, const OneChannel<T>& row) {
        return fastopt::normalized(x, row.of.center, row.of.scale, row.of.offset);
    }
    template <class T>
    FASTOPT_HD static T projected(T grad, T x, const OneChannel<T>& row) {
        return fastopt::projected(grad, x, row.of.center, row.of.scale, row.less.mean, row.less.slope);
    }
};

// RMS normalization: the mean counts as 0.
struct RMS {
    static constexpr bool centered = false;
    template <class T>
    FASTOPT_HD static T normalized(T x, const OneChannel<T>& row) {
        return x * row.of.scale;
    }
    template <class T>
    FASTOPT_HD static T projected(T grad, T x, const OneChannel<T>& row) {
        return grad * row.of.scale - x * row.less.slope;
    }
};

// z, before the activation. `kWeights`: 0 for none, 1 for weights, 2 for weights and biases. Reads and writes numbers
// as they are stored.
template <class Kind, int kWeights, class Format, class T>
FASTOPT_NOINLINE void row_loop(const typename Format::Storage* x, const T* weight, const T* bias,
                               typename Format::Storage* out, int n, const OneChannel<T>& numbers) {
    const OneChannel<T> row = numbers;
    FASTOPT_VECTORIZE
    for (int i = 0; i < n; ++i) {
        T z = Kind::normalized(T(Format::load(x[i])), row);
        if constexpr (kWeights > 0) z = z * weight[i];
        if constexpr (kWeights > 1) z = z + bias[i];
        out[i] = Format::store(z);
    }
}

// Some rows of a block, and where their gradients go.
template <class Format, class T, int kRows>
struct RowLines {
    const typename Format::Storage *grad[kRows], *x[kRows];
    T* out[kRows];
};

// The gradients of the input from those of z, and the terms of the gradients of weight and bias, added to their columns
// row by row. Several rows load and store these columns once.
template <class Kind, bool kWeight, bool kParameters, class Format, int kRows, class T>
FASTOPT_NOINLINE void row_gradient_loop(const RowLines<Format, T, kRows>& rows, const T* weight, T* weight_sums,
                                        T* bias_sums, int n, const OneChannel<T>* numbers) {
    const RowLines<Format, T, kRows> lines = rows;
    OneChannel<T> row[kRows];
    for (int r = 0; r < kRows; ++r) row[r] = numbers[r];
    FASTOPT_VECTORIZE
    for (int i = 0; i < n; ++i) {
        T of_weight = 0, of_bias = 0;
        if constexpr (kParameters) of_weight = weight_sums[i];
        if constexpr (kParameters && Kind::centered) of_bias = bias_sums[i];
        for (int r = 0; r < kRows; ++r) {
            const T dz = Format::load(lines.grad[r][i]), at = Format::load(lines.x[r][i]);
            if constexpr (kParameters) {
                of_weight += dz * Kind::normalized(at, row[r]);
                if constexpr (Kind::centered) of_bias += dz;
            }
            lines.out[r][i] = Kind::projected(kWeight ? dz * weight[i] : dz, at, row[r]);
        }
        if constexpr (kParameters) weight_sums[i] = of_weight;
        if constexpr (kParameters && Kind::centered) bias_sums[i] = of_bias;
    }
}

template <class Format, class T>
FASTOPT_NOINLINE void multiply(typename Format::Storage* __restrict values, const T* __restrict others, int n) {
    for (int i = 0; i < n; ++i) values[i] = Format::store(T(Format::load(values[i])) * others[i]);
}

template <class Activation, class T>
void activation_loop(const T* z, T* out, int n, T negative_slope) {
    FASTOPT_VECTORIZE
    for (int i = 0; i < n; ++i) out[i] = Activation::value(z[i], negative_slope);
}

template <class Activation, class T>
void passed_gradient_loop(const T* z, const T* grad, T* out, int n, T negative_slope) {
    FASTOPT_VECTORIZE
    for (int i = 0; i < n; ++i) out[i] = Activation::gradient(z[i], grad[i], negative_slope);
}

#define FASTOPT_ACTIVATION_LOOP(name, Activation) activation_loop<Activation, T>,
#define FASTOPT_PASSED_GRADIENT_LOOP(name, Activation) passed_gradient_loop<Activation, T>,

template <class T>
constexpr void (*activation_loops[])(const T*, T*, int, T) = {FASTOPT_ACTIVATIONS(FASTOPT_ACTIVATION_LOOP)};
template <class T>
constexpr void (*passed_gradient_loops[])(const T*, const T*, T*, int,
                                          T) = {FASTOPT_ACTIVATIONS(FASTOPT_PASSED_GRADIENT_LOOP)};

// The weights of a row's elements from `at` on; null where there are none.
template <class T>
const T* parameters_at(const Array& parameters, int64_t at) {
    return parameters.data != nullptr ? static_cast<const T*>(parameters.data) + at : nullptr;
}

// Rounds values to the input's type, as it stores them.
template <class T>
void round_as(const Array& input, T* values, int n) {
    alignas(64) uint16_t halves[kBlock];
    const Array rounded{halves, input.type};
    if (input.type == kNative<T>) return;
    store(rounded, 0, n, values);
    const T* const wide = load(rounded, 0, n, values);
    if (wide != values) __builtin_memcpy(values, wide, size_t(n) * sizeof(T));
}

// z of `n` elements from `at` on in a row, before the activation. `rounds`: the normalized value is rounded before the
// weight.
template <class Kind, class Format, class T>
void z_of(const NormTask& task, const typename Format::Storage* x, int64_t at, int n, const OneChannel<T>& row,
          bool rounds, typename Format::Storage* out) {
    const T* const weight = parameters_at<T>(task.weight, at);
    const T* const bias = parameters_at<T>(task.bias, at);
    if (weight == nullptr || rounds) {
        row_loop<Kind, 0, Format>(x, weight, bias, out, n, row);
        if (!rounds) return;
        if constexpr (sizeof(*out) == sizeof(T)) round_as(task.input, out, n);  // a half type's storage has rounded
        if (weight != nullptr) multiply<Format>(out, weight, n);
    } else if (bias == nullptr) {
        row_loop<Kind, 1, Format>(x, weight, bias, out, n, row);
    } else {
        row_loop<Kind, 2, Format>(x, weight, bias, out, n, row);
    }
}

}  // namespace
}  // namespace fastopt
