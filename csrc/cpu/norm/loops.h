// The element loops of channels: one per activation, with or without a residual.
#pragma once

#include "cpu/reductions.h"
#include "norm/activations.h"
#include "norm/channel.h"
#include "norm/task.h"

namespace fastopt {
namespace {

// The elements in memory, in their storage type.
template <class Format>
FASTOPT_HD const typename Format::Storage* stored(const Array& array, int64_t at) {
    return static_cast<const typename Format::Storage*>(array.data) + at;
}

// One channel's coefficients, for all elements of a loop.
template <class T>
struct OneChannel {
    Coefficients<T> of;
    Projection<T> less;
    FASTOPT_HD T center(int) const { return of.center; }
    FASTOPT_HD T scale(int) const { return of.scale; }
    FASTOPT_HD T offset(int) const { return of.offset; }
    FASTOPT_HD T mean(int) const { return less.mean; }
    FASTOPT_HD T slope(int) const { return less.slope; }
};

// There is no projection before there are sums.
template <class T>
Projection<T> projection_so_far(const NormTask& task, int64_t set) {
    return task.sums != nullptr ? projection_of<T>(task, set) : Projection<T>{};
}

// Different coefficients for each element.
template <class T>
struct ManyChannels {
    const T *centers, *scales, *offsets, *means, *slopes;
    FASTOPT_HD T center(int i) const { return centers[i]; }
    FASTOPT_HD T scale(int i) const { return scales[i]; }
    FASTOPT_HD T offset(int i) const { return offsets[i]; }
    FASTOPT_HD T mean(int i) const { return means[i]; }
    FASTOPT_HD T slope(int i) const { return slopes[i]; }
};

// Reads and writes numbers as they are stored.
template <class Format, class Activation, bool kResidual, class T, class Channels>
void normalize_loop(const typename Format::Storage* x, const typename Format::Storage* residual,
                    typename Format::Storage* out, int n, const Channels& channels, T negative_slope) {
    const Channels c = channels;
    FASTOPT_VECTORIZE
    for (int i = 0; i < n; ++i) {
        T z = normalized(T(Format::load(x[i])), c.center(i), c.scale(i), c.offset(i));
        if constexpr (kResidual) z = z + T(Format::load(residual[i]));
        out[i] = Format::store(Activation::value(z, negative_slope));
    }
}

// The gradient of z. z is computed again.
template <class Activation, bool kResidual, class T, class Channels>
void activation_gradient_loop(const T* grad, const T* x, const T* residual, T* out, int n, const Channels& channels,
                              T negative_slope) {
    const Channels c = channels;
    FASTOPT_VECTORIZE
    for (int i = 0; i < n; ++i) {
        T z = normalized(x[i], c.center(i), c.scale(i), c.offset(i));
        if constexpr (kResidual) z = z + residual[i];
        out[i] = Activation::gradient(z, grad[i], negative_slope);
    }
}

// The gradient of the input. `kBatch` removes its mean and its part along x, because the statistics depend on x.
template <bool kBatch, class T, class Channels>
void input_gradient_loop(const T* grad, const T* x, T* out, int n, const Channels& channels) {
    const Channels c = channels;
    FASTOPT_VECTORIZE
    for (int i = 0; i < n; ++i)
        out[i] =
            kBatch ? projected(grad[i], x[i], c.center(i), c.scale(i), c.mean(i), c.slope(i)) : grad[i] * c.scale(i);
}

template <class Storage, class T, class Channels>
using NormalizeLoop = void (*)(const Storage*, const Storage*, Storage*, int, const Channels&, T);

template <class T, class Channels>
using ActivationGradientLoop = void (*)(const T*, const T*, const T*, T*, int, const Channels&, T);

#define FASTOPT_NORMALIZE_LOOPS(name, Activation) \
    {normalize_loop<Format, Activation, false, T, Channels>, normalize_loop<Format, Activation, true, T, Channels>},
#define FASTOPT_ACTIVATION_GRADIENT_LOOPS(name, Activation) \
    {activation_gradient_loop<Activation, false, T, Channels>, activation_gradient_loop<Activation, true, T, Channels>},

template <class Format, class T, class Channels>
constexpr NormalizeLoop<typename Format::Storage, T, Channels> normalize_loops[][2] = {
    FASTOPT_ACTIVATIONS(FASTOPT_NORMALIZE_LOOPS)};
template <class T, class Channels>
constexpr ActivationGradientLoop<T, Channels> activation_gradient_loops[][2] = {
    FASTOPT_ACTIVATIONS(FASTOPT_ACTIVATION_GRADIENT_LOOPS)};

#define FASTOPT_ACTIVATION_NAME(name, Activation) name,
constexpr const char* activation_names[] = {FASTOPT_ACTIVATIONS(FASTOPT_ACTIVATION_NAME)};

#define FASTOPT_ACTIVATION_COSTLY(name, Activation) Activation::costly,
constexpr bool activation_costly[] = {FASTOPT_ACTIVATIONS(FASTOPT_ACTIVATION_COSTLY)};

// Whether the gradient of z equals the incoming gradient.
FASTOPT_HD bool passes(const NormTask& task) { return task.activation == 0; }

FASTOPT_HD bool stores_residual(const NormTask& task) {
    return task.grad_residual.data != nullptr && task.grad_residual.data != task.kept.data;
}

template <class Format, class T, class Channels>
void normalize(const NormTask& task, const typename Format::Storage* x, const typename Format::Storage* residual,
               typename Format::Storage* out, int n, const Channels& channels) {
    normalize_loops<Format, T, Channels>[task.activation][residual != nullptr](x, residual, out, n, channels,
                                                                               T(task.negative_slope));
}

// Calls visit(format, x, residual, out) for elements [at, at + n), at most a block, and stores `out`. bfloat16 is
// converted in the loop that computes, float16 before and after it, because compilers do not find its instructions.
template <class T, class Visit>
FASTOPT_HD void with_operands(const NormTask& task, int64_t at, int n, Visit visit) {
    const bool adds = task.residual.data != nullptr;
    if constexpr (sizeof(T) == sizeof(float)) {
        if (task.input.type == DType::bf16) {
            alignas(64) uint16_t buffer[kBlock];
            uint16_t* const own = static_cast<uint16_t*>(task.out.data) + at;
            uint16_t* const out = task.streams ? buffer : own;
            visit(BFloat16(), stored<BFloat16>(task.input, at), adds ? stored<BFloat16>(task.residual, at) : nullptr,
                  out);
            return copy(own, out, size_t(n) * sizeof(uint16_t), task.streams);
        }
    }
    alignas(64) T buffer[kBlock], residual_buffer[kBlock];
    const bool direct = task.out.type == kNative<T> && !task.streams;
    const T* const x = load(task.input, at, n, buffer);
    const T* const residual = adds ? load(task.residual, at, n, residual_buffer) : nullptr;
    T* const out = direct ? static_cast<T*>(task.out.data) + at : buffer;
    visit(Native<T>(), x, residual, out);
    store(task.out, at, n, out, task.streams);
}

template <class T, class Channels>
void activation_gradient(const NormTask& task, const T* grad, const T* x, const T* residual, T* out, int n,
                         const Channels& channels) {
    activation_gradient_loops<T, Channels>[task.activation][residual != nullptr](grad, x, residual, out, n, channels,
                                                                                 T(task.negative_slope));
}

template <class T, class Channels>
void input_gradient(const NormTask& task, const T* grad, const T* x, T* out, int n, const Channels& channels) {
    (task.batch ? input_gradient_loop<true, T, Channels> : input_gradient_loop<false, T, Channels>)(grad, x, out, n,
                                                                                                    channels);
}

// Adds the gradient of the sum that was normalized: `n` elements from `at` on.
template <class T>
void add_grad_sum(const NormTask& task, int64_t at, int n, T* values) {
    alignas(64) T buffer[kBlock];
    if (task.grad_sum.data != nullptr) add_onto(values, static_cast<const T*>(load(task.grad_sum, at, n, buffer)), n);
}

// Writes the sum of both summands to where the normalization reads it.
template <class T>
void add_summands(const NormTask& task, int64_t begin, int64_t end) {
    if (task.summands[0].data == nullptr) return;
    alignas(64) T buffers[2][kBlock];
    const bool direct = task.input.type == kNative<T>;
    for (int64_t at = begin; at < end; at += kBlock) {
        const int n = int(end - at < kBlock ? end - at : kBlock);
        const T* const __restrict first = load(task.summands[0], at, n, buffers[0]);
        const T* const __restrict second = load(task.summands[1], at, n, buffers[1]);
        T* const out = direct ? static_cast<T*>(task.input.data) + at : buffers[0];
        FASTOPT_VECTORIZE
        for (int i = 0; i < n; ++i) out[i] = first[i] + second[i];
        store(task.input, at, n, out);
    }
}

}  // namespace
}  // namespace fastopt
