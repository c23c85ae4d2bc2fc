// Layer and RMS normalization: a set is a row of contiguous elements, which is a segment of planes with one sample.
#pragma once

#include "cpu/norm/planes.h"
#include "cpu/norm/row_loops.h"

namespace fastopt {
namespace {

// Calls visit(first, n) for the blocks of a row.
template <class Visit>
FASTOPT_HD void for_row_blocks(int64_t length, Visit visit) {
    for (int64_t at = 0; at < length; at += kBlock) visit(at, int(length - at < kBlock ? length - at : kBlock));
}

template <class T>
OneChannel<T> numbers_of_row(const NormTask& task, int64_t row, Projection<T> less = {}) {
    return {coefficients<T>(mean_of(task, row), inverse_std_of(task, row), 1, 0), less};
}

// The sum of squares of a chunk.
template <class Format, class T>
double squares_of(const NormTask& task, int64_t row, int64_t chunk) {
    double sum = 0;
    for_flush_blocks(pieces_of(task.sets, chunk), [&](PieceRange block) {
        Pair<T> sums{};
        for (int64_t k = block.begin; k < block.end; ++k) {
            const Piece piece = piece_of(task.sets, row, k);
            gather_squares<Format>(sums, static_cast<const typename Format::Storage*>(task.input.data) + piece.at,
                                   piece.n());
        }
        sum += merged(sums.second);
    });
    return sum;
}

template <class Kind, class T>
void rows_moments(const NormTask& task, int64_t begin, int64_t end) {
    if constexpr (Kind::centered) {
        planes_moments<T>(task, begin, end);
    } else {
        const int64_t chunks = task.sets.chunks;
        with_format<T>(task.input.type, [&](auto format) {
            for (int64_t unit = begin; unit < end; ++unit)
                task.partials[2 * unit] = squares_of<decltype(format), T>(task, unit / chunks, unit % chunks);
        });
    }
}

template <class Kind, class T>
void rows_finalize(const NormTask& task, int64_t begin, int64_t end) {
    if constexpr (Kind::centered) {
        planes_join_moments<T>(task, begin, end);
        for (int64_t row = begin; row < end; ++row) finalize_statistics(task, row);
    } else {
        const int64_t chunks = task.sets.chunks;
        for (int64_t row = begin; row < end; ++row) {
            double squares = 0;
            for (int64_t chunk = 0; chunk < chunks; ++chunk) squares += task.partials[2 * (row * chunks + chunk)];
            task.statistics[row] = 0;
            task.statistics[task.set_count + row] = inverse_deviation(squares / task.count, task.eps);
        }
    }
}

template <class Kind, class T>
void apply_to_row(const NormTask& task, int64_t row, int64_t at, int n) {
    alignas(64) T x_buffer[kBlock], buffer[kBlock];
    const bool direct = task.out.type == kNative<T> && !task.streams;
    const int64_t first = row * row_length(task) + at;
    const T* const x = load(task.input, first, n, x_buffer);
    T* const out = direct ? static_cast<T*>(task.out.data) + first : buffer;
    z_of<Kind>(task, x, at, n, numbers_of_row<T>(task, row), task.rounds_first, out);
    if (!passes(task)) activation_loops<T>[task.activation](out, out, n, T(task.negative_slope));
    store(task.out, first, n, out, task.streams);
}

template <class Kind, class T>
void rows_apply(const NormTask& task, int64_t begin, int64_t end) {
    const int64_t length = row_length(task), blocks = (length + kBlock - 1) / kBlock;
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t row = unit / blocks, at = unit % blocks * kBlock, left = length - at;
        apply_to_row<Kind, T>(task, row, at, int(left < kBlock ? left : kBlock));
    }
    finish_streams();
}

template <class Kind, class T>
void rows_forward(const NormTask& task, int64_t begin, int64_t end) {
    const int64_t length = row_length(task), chunks = task.sets.chunks;
    for (int64_t row = begin; row < end; ++row) {
        add_summands<T>(task, row * length, (row + 1) * length);
        rows_moments<Kind, T>(task, row * chunks, (row + 1) * chunks);
        rows_finalize<Kind, T>(task, row, row + 1);
        for_row_blocks(length, [&](int64_t at, int n) { apply_to_row<Kind, T>(task, row, at, n); });
    }
    finish_streams();
}

// The gradient of z for `n` elements from `at` on in a row.
template <class Kind, class T>
const T* row_activation_backward(const NormTask& task, int64_t row, int64_t at, int n, const T* x, T* buffer) {
    const int64_t first = row * row_length(task) + at;
    const T* const grad = load(task.grad, first, n, buffer);
    if (passes(task)) return grad;
    alignas(64) T z[kBlock];
    z_of<Kind>(task, x, at, n, numbers_of_row<T>(task, row), false, z);
    passed_gradient_loops<T>[task.activation](z, grad, buffer, n, T(task.negative_slope));
    return buffer;
}

// Adds a piece of a row, from `at` on, to the sums of its gradients times their weights, and of their products with x.
template <class Kind, class T>
void gather_of_row(const NormTask& task, int64_t row, int64_t at, int n, T center, Pair<T>& sums) {
    const int64_t first = row * row_length(task) + at;
    const T* const weight = parameters_at<T>(task.weight, at);
    const auto gather = [&](auto format, const auto* grad, const auto* x) {
        using Format = decltype(format);
        (weight != nullptr ? gather_weighted<Kind::centered, true, Format, T>
                           : gather_weighted<Kind::centered, false, Format, T>)(sums, grad, x, weight, n, center);
    };
    if (passes(task))
        return with_format<T>(task.input.type, [&](auto format) {
            using Storage = typename decltype(format)::Storage;
            gather(format, static_cast<const Storage*>(task.grad.data) + first,
                   static_cast<const Storage*>(task.input.data) + first);
        });
    alignas(64) T x_buffer[kBlock], grad_buffer[kBlock];
    const T* const x = load(task.input, first, n, x_buffer);
    const T* const dz = row_activation_backward<Kind>(task, row, at, n, x, grad_buffer);
    if (task.kept.data != nullptr) store(task.kept, first, n, dz);
    gather(Native<T>(), dz, x);
}

template <class Kind, class T>
Projection<T> projection_of_row(const NormTask& task, int64_t row) {
    const NormLayout& l = task.sets;
    const double mean = mean_of(task, row);
    const T center = T(mean);
    double sum = 0, products = 0;
    for (int64_t chunk = 0; chunk < l.chunks; ++chunk) {
        double some = 0, some_products = 0;
        sums_of<T>(pieces_of(l, chunk), some, some_products, [&](int64_t k, Pair<T>& sums) {
            const Piece piece = piece_of(l, row, k);
            gather_of_row<Kind>(task, row, piece.at - row * l.inner, piece.n(), center, sums);
        });
        sum += some;
        products += some_products;
    }
    products -= (mean - double(center)) * sum;
    return projection<T>(mean, inverse_std_of(task, row), sum, products, task.count);
}

// Where a chunk's sums of the gradients of weight and bias are.
template <class T>
struct ColumnSums {
    T *weight, *bias;
};

template <class Kind, class T>
void gradient_of_row(const NormTask& task, int64_t row, const OneChannel<T>& numbers, const ColumnSums<T>& columns) {
    alignas(64) T x_buffer[kBlock], grad_buffer[kBlock], buffer[kBlock];
    const int64_t length = row_length(task);
    const bool direct = task.grad_input.data != nullptr && task.grad_input.type == kNative<T> && !task.streams;
    for_row_blocks(length, [&](int64_t at, int n) {
        const int64_t first = row * length + at;
        const T* const x = load(task.input, first, n, x_buffer);
        const T* const dz = task.kept.data != nullptr ? load(task.kept, first, n, grad_buffer)
                                                      : row_activation_backward<Kind>(task, row, at, n, x, grad_buffer);
        const T* const weight = parameters_at<T>(task.weight, at);
        T* const out = direct ? static_cast<T*>(task.grad_input.data) + first : buffer;
        if (columns.weight != nullptr)
            (weight != nullptr ? row_gradient_loop<Kind, true, true, T>
                               : row_gradient_loop<Kind, false, true, T>)(dz, x, weight, out, columns.weight + at,
                                                                          columns.bias + at, n, numbers);
        else
            (weight != nullptr
                 ? row_gradient_loop<Kind, true, false, T>
                 : row_gradient_loop<Kind, false, false, T>)(dz, x, weight, out, nullptr, nullptr, n, numbers);
        if (task.grad_input.data == nullptr) return;
        add_grad_sum(task, first, n, out);
        store(task.grad_input, first, n, out, task.streams);
    });
}

template <class T>
FASTOPT_NOINLINE void empty_into(double* __restrict totals, T* __restrict sums, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        totals[i] += double(sums[i]);
        sums[i] = 0;
    }
}

// Units: chunks of rows. Their sums in the compute type are emptied into float64 after every flush block of rows.
template <class Kind, class T>
void rows_backward(const NormTask& task, int64_t begin, int64_t end) {
    const int64_t length = row_length(task);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
        T* const sums = static_cast<T*>(task.accumulators) + (task.accumulators != nullptr ? 2 * chunk * length : 0);
        double* const totals = task.partials + 2 * chunk * length;
        const ColumnSums<T> columns =
            task.accumulators != nullptr ? ColumnSums<T>{sums, sums + length} : ColumnSums<T>{};
        if (columns.weight != nullptr)
            for (int64_t i = 0; i < 2 * length; ++i) sums[i] = 0, totals[i] = 0;
        const int64_t first = chunk * task.chunk_rows, left = task.set_count - first;
        const int64_t rows = left < task.chunk_rows ? left : task.chunk_rows;
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t row = first + r;
            Projection<T> less{};
            if (task.grad_input.data != nullptr) less = projection_of_row<Kind, T>(task, row);
            gradient_of_row<Kind, T>(task, row, numbers_of_row(task, row, less), columns);
            const bool flushes = (r + 1) % kFlushRows == 0 || r + 1 == rows;
            if (flushes && columns.weight != nullptr) empty_into(totals, sums, 2 * length);
        }
    }
    finish_streams();
}

template <class T>
void rows_join_parameters(const NormTask& task, int64_t begin, int64_t end) {
    const int64_t length = row_length(task), chunks = (task.set_count + task.chunk_rows - 1) / task.chunk_rows;
    const Array* const results[] = {&task.grad_weight, &task.grad_bias};
    for (int k = 0; k < 2; ++k) {
        if (results[k]->data == nullptr) continue;
        for (int64_t at = begin; at < end; at += kBlock) {
            const int n = int(end - at < kBlock ? end - at : kBlock);
            double totals[kBlock] = {};
            for (int64_t chunk = 0; chunk < chunks; ++chunk)
                add_onto(totals, task.partials + (2 * chunk + k) * length + at, int64_t(n));
            for (int i = 0; i < n; ++i) set_element(*results[k], at + i, totals[i]);
        }
    }
}

template <class Kind, class T>
constexpr RowKernels rows = {rows_moments<Kind, T>, rows_finalize<Kind, T>, rows_apply<Kind, T>,
                             rows_forward<Kind, T>, rows_backward<Kind, T>, rows_join_parameters<T>};

}  // namespace
}  // namespace fastopt
