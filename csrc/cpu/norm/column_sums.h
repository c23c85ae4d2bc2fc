// Sums by column, for batch normalization where a channel's elements are columns.
#pragma once

#include "cpu/norm/loops.h"
#include "norm/channel.h"

namespace fastopt {
namespace {

// The coefficients of columns from `at` on: five arrays of `repeat` numbers in a row.
template <class T>
ManyChannels<T> columns_from(const NormTask& task, int64_t at) {
    const T* const all = static_cast<const T*>(task.coefficients) + at;
    const int64_t n = task.layout.repeat;
    return {all, all + n, all + 2 * n, all + 3 * n, all + 4 * n};
}

// The gradient of z for `n` elements from `at` on; their coefficients begin at `column`. `keeps` stores it, to be read
// again.
template <class T>
const T* activation_backward(const NormTask& task, int64_t at, int n, int64_t column, const T* x, T* grad_buffer,
                             T* residual_buffer, bool keeps) {
    const T* const grad = load(task.grad, at, n, grad_buffer);
    if (passes(task)) return grad;
    const T* const residual = task.residual.data != nullptr ? load(task.residual, at, n, residual_buffer) : nullptr;
    T* const out = keeps ? static_cast<T*>(task.kept.data) + at : grad_buffer;
    activation_gradient(task, grad, x, residual, out, n, columns_from<T>(task, column));
    return out;
}

// Adds x - shift and its square, over rows that lie `stride` apart.
template <int kRows, class Format, class T>
FASTOPT_NOINLINE void gather_moment_rows(T* __restrict sums, T* __restrict squares,
                                         const typename Format::Storage* __restrict x, int64_t stride,
                                         const T* __restrict shift, int width) {
    FASTOPT_VECTORIZE
    for (int k = 0; k < width; ++k) {
        T sum = sums[k], square = squares[k];
        for (int r = 0; r < kRows; ++r) {
            const T delta = Format::load(x[r * stride + k]) - shift[k];
            sum += delta;
            square += delta * delta;
        }
        sums[k] = sum;
        squares[k] = square;
    }
}

// Adds gradients and their products with x - center.
template <int kRows, class Format, class T>
FASTOPT_NOINLINE void gather_product_rows(T* __restrict sums, T* __restrict products,
                                          const typename Format::Storage* __restrict grad,
                                          const typename Format::Storage* __restrict x, int64_t stride,
                                          const T* __restrict center, int width) {
    FASTOPT_VECTORIZE
    for (int k = 0; k < width; ++k) {
        T sum = sums[k], product = products[k];
        for (int r = 0; r < kRows; ++r) {
            const T g = Format::load(grad[r * stride + k]);
            sum += g;
            product += g * (Format::load(x[r * stride + k]) - center[k]);
        }
        sums[k] = sum;
        products[k] = product;
    }
}

constexpr int64_t kTogether = 256;  // the most elements of rows that are summed together

template <int kRows>
struct Rows {
    static constexpr int count = kRows;
};

// Calls visit(row, count) for the rows. Short rows go several at a time, so that sums stay in registers; long rows go
// one by one, because hardware prefetchers lose track of a walk that jumps between rows.
template <int kRows = 4, class Visit>
FASTOPT_HD void for_some(int64_t columns, int rows, Visit visit, int done = 0) {
    if (kRows * columns <= kTogether || kRows == 1)
        for (; rows - done >= kRows; done += kRows) visit(done, Rows<kRows>());
    if constexpr (kRows > 1) for_some<1>(columns, rows, visit, done);
}

// A unit of work: one span of columns in one chunk of rows.
struct Span {
    int64_t chunk, first_row, end_row, column;
    int width;
};

Span span_of(const NormLayout& l, int64_t unit) {
    const int64_t across = (l.columns + kSpan - 1) / kSpan;
    const int64_t chunk = unit / across, column = unit % across * kSpan;
    const int64_t first = chunk * l.chunk, end = first + l.chunk;
    const int64_t left = l.columns - column;
    return {chunk, first, end < l.rows ? end : l.rows, column, int(left < kSpan ? left : kSpan)};
}

// The number of rows that fit into a block; 1 where a row is longer than a span.
int rows_in_block(const NormLayout& l) { return l.columns <= kBlock ? int(l.repeat / l.columns) : 1; }

// Calls visit(element, rows) for each flush block of a span, in order.
template <class Visit>
FASTOPT_HD void for_flush_blocks(const NormLayout& l, const Span& span, Visit visit) {
    for (int64_t row = span.first_row; row < span.end_row; row += kFlushRows) {
        const int64_t left = span.end_row - row;
        visit(row * l.columns + span.column, int(left < kFlushRows ? left : kFlushRows));
    }
}

// Calls visit(element, rows, n) for `step` rows of a flush block at a time, in order; they span `n` elements in memory.
template <class Visit>
FASTOPT_HD void for_rows(const NormLayout& l, int64_t block, int rows, int width, int step, Visit visit) {
    for (int r = 0; r < rows; r += step) {
        const int some = rows - r < step ? rows - r : step;
        visit(block + r * l.columns, some, int((some - 1) * l.columns + width));
    }
}

// Computes the shifts from the first rows of a flush block.
template <class T>
void shifts_of(const NormTask& task, int64_t block, int rows, int width, T* __restrict shift) {
    alignas(64) T first_buffer[kBlock], buffer[kBlock];
    const int n = rows < int(kShiftRows) ? rows : int(kShiftRows);
    const T* const __restrict first = load(task.input, block, width, first_buffer);
    for (int k = 0; k < width; ++k) shift[k] = 0;
    for (int r = 1; r < n; ++r) {
        const T* const __restrict x = load(task.input, block + r * task.layout.columns, width, buffer);
        for (int k = 0; k < width; ++k) shift[k] += x[k] - first[k];
    }
    for (int k = 0; k < width; ++k) shift[k] = shift_from(first[k], double(shift[k]), 1.0 / n);
}

template <class T>
void columns_moments(const NormTask& task, int64_t begin, int64_t end) {
    const NormLayout& l = task.layout;
    alignas(64) T shift[kSpan], sums[kSpan], squares[kSpan];
    for (int64_t unit = begin; unit < end; ++unit) {
        const Span span = span_of(l, unit);
        double* const means = task.partials + 2 * span.chunk * l.columns + span.column;
        double* const deviations = means + l.columns;
        for (int k = 0; k < span.width; ++k) means[k] = deviations[k] = 0;
        double count = 0;
        for_flush_blocks(l, span, [&](int64_t block, int rows) {
            shifts_of(task, block, rows, span.width, shift);
            for (int k = 0; k < span.width; ++k) sums[k] = squares[k] = 0;
            with_format<T>(task.input.type, [&](auto format) {
                using Format = decltype(format);
                const auto* const x = stored<Format>(task.input, block);
                alignas(64) T buffer[kSpan];
                for_some(l.columns, rows, [&](int row, auto some) {
                    constexpr int together = decltype(some)::count;
                    const int n = int((together - 1) * l.columns) + span.width;
                    const auto* const from = Readable<Format, T>::from(x + row * l.columns, n, buffer);
                    gather_moment_rows<together, typename Readable<Format, T>::Read>(sums, squares, from, l.columns,
                                                                                     shift, span.width);
                });
            });
            const Share of = share(count, rows);
            const double per = 1.0 / rows;
            for (int k = 0; k < span.width; ++k) {
                const Moments theirs = moments_from(double(shift[k]), double(sums[k]), double(squares[k]), per);
                join(means[k], deviations[k], theirs.mean, theirs.squares, of);
            }
            count += rows;
        });
    }
}

// Sums a flush block where the incoming gradient is the gradient of z.
template <class Format, class T>
void gather_stored(const NormTask& task, const Span& span, int64_t block, int rows, const T* center, T* sums,
                   T* products) {
    const NormLayout& l = task.layout;
    using Numbers = Readable<Format, T>;
    const auto *const x = stored<Format>(task.input, block), *const grad = stored<Format>(task.grad, block);
    alignas(64) T x_buffer[kSpan], grad_buffer[kSpan];
    for_some(l.columns, rows, [&](int row, auto some) {
        constexpr int together = decltype(some)::count;
        const int n = int((together - 1) * l.columns) + span.width;
        const int64_t at = row * l.columns;
        gather_product_rows<together, typename Numbers::Read>(sums, products, Numbers::from(grad + at, n, grad_buffer),
                                                              Numbers::from(x + at, n, x_buffer), l.columns, center,
                                                              span.width);
    });
}

// Sums a flush block where the gradient of z is computed first.
template <class T>
void gather_computed(const NormTask& task, const Span& span, int64_t block, int rows, const T* center, T* sums,
                     T* products) {
    const NormLayout& l = task.layout;
    const bool keeps = task.kept.data != nullptr;
    alignas(64) T x_buffer[kBlock], grad_buffer[kBlock], residual_buffer[kBlock];
    for_rows(l, block, rows, span.width, rows_in_block(l), [&](int64_t at, int some, int n) {
        const T* const x = load(task.input, at, n, x_buffer);
        const T* const grad = activation_backward(task, at, n, span.column, x, grad_buffer, residual_buffer, keeps);
        for_some(l.columns, some, [&](int row, auto few) {
            const int64_t first = row * l.columns;
            gather_product_rows<decltype(few)::count, Native<T>>(sums, products, grad + first, x + first, l.columns,
                                                                 center, span.width);
        });
    });
}

template <class T>
void columns_sums(const NormTask& task, int64_t begin, int64_t end) {
    const NormLayout& l = task.layout;
    alignas(64) T sums[kSpan], products[kSpan];
    for (int64_t unit = begin; unit < end; ++unit) {
        const Span span = span_of(l, unit);
        const T* const center = columns_from<T>(task, span.column).centers;
        double* const total = task.partials + 2 * span.chunk * l.columns + span.column;
        double* const total_products = total + l.columns;
        for (int k = 0; k < span.width; ++k) total[k] = total_products[k] = 0;
        for_flush_blocks(l, span, [&](int64_t block, int rows) {
            for (int k = 0; k < span.width; ++k) sums[k] = products[k] = 0;
            if (passes(task))
                with_format<T>(task.input.type, [&](auto format) {
                    gather_stored<decltype(format)>(task, span, block, rows, center, sums, products);
                });
            else
                gather_computed(task, span, block, rows, center, sums, products);
            for (int k = 0; k < span.width; ++k) {
                total[k] += double(sums[k]);
                total_products[k] += double(products[k]);
            }
        });
    }
}

}  // namespace
}  // namespace fastopt
