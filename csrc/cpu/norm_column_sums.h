// Sums by column: what batch normalization gathers where a channel's elements are columns.
#pragma once

#include "../norm/channel.h"
#include "norm_loops.h"

namespace fastopt {
namespace {

// The coefficients of all columns, one array of `repeat` after the other; `at`: the first column.
template <class T>
ManyChannels<T> columns_from(const NormTask& task, int64_t at) {
    const T* const all = static_cast<const T*>(task.coefficients) + at;
    const int64_t n = task.layout.repeat;
    return {all, all + n, all + 2 * n, all + 3 * n, all + 4 * n};
}

// The gradient of what went into the activation, at `n` elements from `at` on, whose coefficients begin at `column`;
// `keeps`: to be read again.
template <class T>
const T* entering(const NormTask& task, int64_t at, int n, int64_t column, const T* x, T* grad_buffer,
                  T* residual_buffer, bool keeps) {
    const T* const grad = load(task.grad, at, n, grad_buffer);
    if (passes(task)) return grad;
    const T* const residual = task.residual.data != nullptr ? load(task.residual, at, n, residual_buffer) : nullptr;
    T* const out = keeps ? static_cast<T*>(task.kept.data) + at : grad_buffer;
    enter(task, grad, x, residual, out, n, columns_from<T>(task, column));
    return out;
}

// Some rows of up to 32 columns: in registers where there are 32. add(row, lanes, sums, others).
template <class T, class Add>
FASTOPT_HD void gather_rows(T* __restrict first, T* __restrict second, int rows, int width, Add add) {
    if (width == kLanes) {
        T sums[kLanes], others[kLanes];
        __builtin_memcpy(sums, first, sizeof sums);
        __builtin_memcpy(others, second, sizeof others);
        for (int r = 0; r < rows; ++r) add(r, kLanes, sums, others);
        __builtin_memcpy(first, sums, sizeof sums);
        __builtin_memcpy(second, others, sizeof others);
    } else {
        for (int r = 0; r < rows; ++r) add(r, width, first, second);
    }
}

// Of x - shift, and of their squares.
template <class Format, class T>
FASTOPT_ALONE void gather_moment_rows(T* __restrict sums, T* __restrict squares,
                                      const typename Format::Storage* __restrict x, int64_t stride, int rows,
                                      const T* __restrict shift, int width) {
    gather_rows(sums, squares, rows, width, [=](int r, int n, T* __restrict sum, T* __restrict square) {
        T buffer[kLanes];
        const T* const row = row_of(Format(), x + r * stride, n, buffer);
        for (int l = 0; l < n; ++l) {
            const T delta = row[l] - shift[l];
            sum[l] += delta;
            square[l] += delta * delta;
        }
    });
}

// Of gradients, and of their products with x - center.
template <class Format, class T>
FASTOPT_ALONE void gather_product_rows(T* __restrict sums, T* __restrict products,
                                       const typename Format::Storage* __restrict grad,
                                       const typename Format::Storage* __restrict x, int64_t stride, int rows,
                                       const T* __restrict center, int width) {
    gather_rows(sums, products, rows, width, [=](int r, int n, T* __restrict sum, T* __restrict product) {
        T buffer[kLanes], grad_buffer[kLanes];
        const T* const row = row_of(Format(), x + r * stride, n, buffer);
        const T* const grad_row = row_of(Format(), grad + r * stride, n, grad_buffer);
        for (int l = 0; l < n; ++l) {
            sum[l] += grad_row[l];
            product[l] += grad_row[l] * (row[l] - center[l]);
        }
    });
}

// Unit: one span of columns in one chunk of rows.
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

// Rows taken at once in the tensor's memory: so many that sums stay in registers for a while, so few that they are read
// as streams.
int rows_in_memory(const NormLayout& l) {
    const int64_t rows = 8 * kBlock / l.columns;
    return int(rows < 8 ? 8 : rows > kFlushRows ? kFlushRows : rows);
}

// And in a buffer: those that fit into a block; 1 where rows are longer than their span.
int rows_in_block(const NormLayout& l) { return l.columns <= kBlock ? int(l.repeat / l.columns) : 1; }

// Calls visit(element, rows) for each flush block of a span, in order.
template <class Visit>
FASTOPT_HD void for_flush_blocks(const NormLayout& l, const Span& span, Visit visit) {
    for (int64_t row = span.first_row; row < span.end_row; row += kFlushRows) {
        const int64_t left = span.end_row - row;
        visit(row * l.columns + span.column, int(left < kFlushRows ? left : kFlushRows));
    }
}

// Calls visit(element, rows, n) for `step` rows of a block at a time, in order: `n` elements in memory.
template <class Visit>
FASTOPT_HD void for_rows(const NormLayout& l, int64_t block, int rows, int width, int step, Visit visit) {
    for (int r = 0; r < rows; r += step) {
        const int some = rows - r < step ? rows - r : step;
        visit(block + r * l.columns, some, int((some - 1) * l.columns + width));
    }
}

// Calls visit(column, n) for 32 columns of a span at a time.
template <class Visit>
FASTOPT_HD void for_lanes(int width, Visit visit) {
    for (int k = 0; k < width; k += kLanes) visit(k, width - k < kLanes ? width - k : kLanes);
}

// From the first rows of a flush block.
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

// What is in memory.
template <class Format>
FASTOPT_HD const typename Format::Storage* stored(const Array& array, int64_t at) {
    return static_cast<const typename Format::Storage*>(array.data) + at;
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
                for_rows(l, block, rows, span.width, rows_in_memory(l), [&](int64_t at, int some, int) {
                    const auto* const x = stored<Format>(task.input, at);
                    for_lanes(span.width, [&](int k, int width) {
                        gather_moment_rows<Format>(sums + k, squares + k, x + k, l.columns, some, shift + k, width);
                    });
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

// The sums of a flush block, of a gradient that is taken as it comes.
template <class Format, class T>
void gather_stored(const NormTask& task, const Span& span, int64_t block, int rows, const T* center, T* sums,
                   T* products) {
    const NormLayout& l = task.layout;
    for_rows(l, block, rows, span.width, rows_in_memory(l), [&](int64_t at, int some, int) {
        const auto *const x = stored<Format>(task.input, at), *const grad = stored<Format>(task.grad, at);
        for_lanes(span.width, [&](int k, int width) {
            gather_product_rows<Format>(sums + k, products + k, grad + k, x + k, l.columns, some, center + k, width);
        });
    });
}

// And of one that is computed first.
template <class T>
void gather_entering(const NormTask& task, const Span& span, int64_t block, int rows, const T* center, T* sums,
                     T* products) {
    const NormLayout& l = task.layout;
    const bool keeps = task.kept.data != nullptr;
    alignas(64) T x_buffer[kBlock], grad_buffer[kBlock], residual_buffer[kBlock];
    for_rows(l, block, rows, span.width, rows_in_block(l), [&](int64_t at, int some, int n) {
        const T* const x = load(task.input, at, n, x_buffer);
        const T* const grad = entering(task, at, n, span.column, x, grad_buffer, residual_buffer, keeps);
        for_lanes(span.width, [&](int k, int width) {
            gather_product_rows<Native<T>>(sums + k, products + k, grad + k, x + k, l.columns, some, center + k, width);
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
                gather_entering(task, span, block, rows, center, sums, products);
            for (int k = 0; k < span.width; ++k) {
                total[k] += double(sums[k]);
                total_products[k] += double(products[k]);
            }
        });
    }
}

}  // namespace
}  // namespace fastopt
