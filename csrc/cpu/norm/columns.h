// Normalization where a channel's elements are columns (channels-last, (N, C)): works on all columns of a row at once.
#pragma once

#include "cpu/norm/column_sums.h"

namespace fastopt {
namespace {

template <class T>
void columns_fill_coefficients(const NormTask& task, int64_t begin, int64_t end) {
    const NormLayout& l = task.layout;
    T* const all = static_cast<T*>(task.coefficients);
    const int64_t period = l.channels * l.inner, first_channel = begin * task.group, last = end * task.group;
    for (int64_t set = begin; set < end; ++set) {
        const Projection<T> less = projection_so_far<T>(task, set);
        for (int64_t c = set * task.group; c < (set + 1) * task.group; ++c) {
            const Coefficients<T> of = coefficients_of<T>(task, channel_at(task, c));
            const T values[] = {of.center, of.scale, of.offset, less.mean, less.slope};
            for (int k = 0; k < 5; ++k)
                for (int64_t i = 0; i < l.inner; ++i) all[k * l.repeat + c * l.inner + i] = values[k];
        }
    }
    for (int k = 0; k < 5; ++k) {
        T* const first = all + k * l.repeat + first_channel * l.inner;
        for (int64_t at = period; at < l.repeat; at += period)
            __builtin_memcpy(first + at, first, size_t((last - first_channel) * l.inner) * sizeof(T));
    }
}

// Calls visit(column) for each column of the channel `first`, in order: `inner` neighbours in each period. The columns
// of channel first + k lie k * inner further on.
template <class Visit>
FASTOPT_HD void for_columns(const NormLayout& l, int64_t columns, int64_t first, Visit visit) {
    for (int64_t period = 0; period < columns; period += l.channels * l.inner)
        for (int64_t i = 0; i < l.inner; ++i) visit(period + first * l.inner + i);
}

template <class T>
void columns_join_moments(const NormTask& task, int64_t begin, int64_t end) {
    const NormLayout& l = task.sets;
    alignas(64) T buffer[kBlock];
    const T* const rest = l.rest > 0 ? load(task.input, l.rows * l.columns, int(l.rest), buffer) : nullptr;
    for (int64_t c = begin; c < end; c += kLanes) {
        const int width = int(end - c < kLanes ? end - c : kLanes);
        double mean[kLanes] = {}, squares[kLanes] = {}, count = 0;
        for (int64_t chunk = 0; chunk < l.chunks; ++chunk) {
            const double* const means = task.partials + 2 * chunk * l.columns;
            const int64_t left = l.rows - chunk * l.chunk;
            const double n = double(left < l.chunk ? left : l.chunk);
            for_columns(l, l.columns, c, [&](int64_t at) {
                const Share of = share(count, n);
                for (int k = 0; k < width; ++k) {
                    const double* const theirs = means + at + k * l.inner;
                    join(mean[k], squares[k], theirs[0], theirs[l.columns], of);
                }
                count += n;
            });
        }
        for_columns(l, l.rest, c, [&](int64_t at) {
            const Share of = share(count, 1);
            for (int k = 0; k < width; ++k) join(mean[k], squares[k], double(rest[at + k * l.inner]), 0, of);
            count += 1;
        });
        for (int k = 0; k < width; ++k) {
            task.moments[c + k] = mean[k];
            task.moments[task.set_count + c + k] = squares[k];
        }
    }
}

template <class T>
void columns_join_sums(const NormTask& task, int64_t begin, int64_t end) {
    const NormLayout& l = task.layout;
    alignas(64) T x_buffer[kBlock], grad_buffer[kBlock], residual_buffer[kBlock];
    const T *x = nullptr, *grad = nullptr, *center = columns_from<T>(task, 0).centers;
    if (l.rest > 0) {
        x = load(task.input, l.rows * l.columns, int(l.rest), x_buffer);
        const bool keeps = task.kept.data != nullptr && begin == 0;  // only one worker stores it
        grad = activation_backward(task, l.rows * l.columns, int(l.rest), 0, x, grad_buffer, residual_buffer, keeps);
    }
    for (int64_t c = begin; c < end; c += kLanes) {
        const int width = int(end - c < kLanes ? end - c : kLanes);
        double sum[kLanes] = {}, products[kLanes] = {};
        for (int64_t chunk = 0; chunk < l.chunks; ++chunk) {
            const double* const sums = task.partials + 2 * chunk * l.columns;
            for_columns(l, l.columns, c, [&](int64_t at) {
                for (int k = 0; k < width; ++k) {
                    sum[k] += sums[at + k * l.inner];
                    products[k] += sums[l.columns + at + k * l.inner];
                }
            });
        }
        for_columns(l, l.rest, c, [&](int64_t at) {
            for (int k = 0; k < width; ++k) {
                const int64_t i = at + k * l.inner;
                sum[k] += double(grad[i]);
                products[k] += double(grad[i] * (x[i] - center[i]));
            }
        });
        for (int k = 0; k < width; ++k) {
            task.sums[c + k] = sum[k];
            task.sums[task.channel_count + c + k] = products[k];
            finalize_sums<T>(task, channel_at(task, c + k));
        }
    }
}

// Calls visit(element, column, n) for blocks of [begin, end) whose coefficients are contiguous.
template <class Visit>
FASTOPT_HD void for_blocks(const NormLayout& l, int64_t begin, int64_t end, Visit visit) {
    for (int64_t at = begin; at < end;) {
        const int64_t column = at % l.repeat, left = l.repeat - column;
        int64_t n = end - at < left ? end - at : left;
        if (n > kBlock) n = kBlock;
        visit(at, column, int(n));
        at += n;
    }
}

template <class T>
void columns_apply(const NormTask& task, int64_t begin, int64_t end) {
    alignas(64) T buffer[kBlock], residual_buffer[kBlock];
    const bool direct = task.out.type == kNative<T> && !task.streams;
    for_blocks(task.layout, begin, end, [&](int64_t at, int64_t column, int n) {
        const T* const x = load(task.input, at, n, buffer);
        const T* const residual = task.residual.data != nullptr ? load(task.residual, at, n, residual_buffer) : nullptr;
        T* const out = direct ? static_cast<T*>(task.out.data) + at : buffer;
        normalize(task, x, residual, out, n, columns_from<T>(task, column));
        store(task.out, at, n, out, task.streams);
    });
    finish_streams();
}

template <class T>
void columns_gradient(const NormTask& task, int64_t begin, int64_t end) {
    alignas(64) T x_buffer[kBlock], grad_buffer[kBlock], residual_buffer[kBlock];
    const bool direct = task.grad_input.type == kNative<T> && !task.streams;
    for_blocks(task.layout, begin, end, [&](int64_t at, int64_t column, int n) {
        const T* const x = load(task.input, at, n, x_buffer);
        const T* const grad = task.kept.data != nullptr
                                  ? load(task.kept, at, n, grad_buffer)
                                  : activation_backward(task, at, n, column, x, grad_buffer, residual_buffer, false);
        if (stores_residual(task)) store(task.grad_residual, at, n, grad, task.streams);
        if (task.grad_input.data == nullptr) return;
        T* const out = direct ? static_cast<T*>(task.grad_input.data) + at : x_buffer;
        input_gradient(task, grad, x, out, n, columns_from<T>(task, column));
        add_grad_sum(task, at, n, out);
        store(task.grad_input, at, n, out, task.streams);
    });
    finish_streams();
}

int64_t spans_of(const NormLayout& l) { return l.chunks * ((l.columns + kSpan - 1) / kSpan); }

template <class T>
void columns_forward(const NormTask& all, int64_t begin, int64_t end) {
    for (int64_t sample = begin; sample < end; ++sample) {
        const NormTask task = sample_of(all, sample);
        const int64_t sets = task.sets.channels;
        add_summands<T>(task, 0, task.layout.total);
        columns_moments<T>(task, 0, spans_of(task.layout));
        columns_join_moments<T>(task, 0, sets);
        for (int64_t set = 0; set < sets; ++set) finalize_statistics(task, set);
        columns_fill_coefficients<T>(task, 0, sets);
        columns_apply<T>(task, 0, task.layout.total);
    }
}

template <class T>
void columns_backward(const NormTask& all, int64_t begin, int64_t end) {
    for (int64_t sample = begin; sample < end; ++sample) {
        const NormTask task = sample_of(all, sample);
        NormTask before_sums = task;
        before_sums.sums = nullptr;
        columns_fill_coefficients<T>(before_sums, 0, task.sets.channels);
        columns_sums<T>(task, 0, spans_of(task.layout));
        columns_join_sums<T>(task, 0, task.layout.channels);
        columns_fill_coefficients<T>(task, 0, task.sets.channels);
        columns_gradient<T>(task, 0, task.layout.total);
    }
}

template <class T>
constexpr NormKernels columns = {
    columns_moments<T>,           columns_sums<T>,  columns_join_moments<T>, columns_join_sums<T>,
    columns_fill_coefficients<T>, columns_apply<T>, columns_gradient<T>,     columns_forward<T>,
    columns_backward<T>};

}  // namespace
}  // namespace fastopt
