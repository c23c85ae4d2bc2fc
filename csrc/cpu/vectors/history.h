// A history's products with the gradient and its change, and combinations of its rows: each reads the history once.
#pragma once

#include "cpu/vectors/sums.h"

namespace fastopt {
namespace {

// Rows at a time, which share the loads of what they are multiplied by or added to. As many as registers allow.
#if defined(__AVX512F__)
constexpr int kMultiplied = 3, kCombined = 8;
#else
constexpr int kMultiplied = 1, kCombined = 4;
#endif

// Some rows from one element on, and the rows that follow them in the walk.
template <int kRows, class T>
struct HistoryRows {
    const T *rows[kRows], *next[kRows];

    // Rows [r, r + kRows) at `at`. After the last rows come the first ones, `then` elements further.
    HistoryRows(const VectorTask& task, int64_t r, int64_t first, int64_t last, int64_t at, int64_t then) {
        for (int k = 0; k < kRows; ++k) {
            const int64_t following = r + kRows + k < last ? r + kRows + k : first;
            rows[k] = static_cast<const T*>(task.rows[r + k]) + at;
            next[k] = static_cast<const T*>(task.rows[following]) + at + (following == first ? then : 0);
        }
    }
};

// Calls body(i) for every 32 of n elements, and prefetches across the ends of pages, where the CPU's prefetchers stop.
template <int kRows, class T, class Body>
FASTOPT_HD int for_lanes(const HistoryRows<kRows, T>& set, int n, Body body) {
    constexpr int kAhead = int(4096 / sizeof(T)), kLine = int(64 / sizeof(T));
    const int full = n / kLanes * kLanes, own = full > kAhead ? full - kAhead : 0;
    const auto step = [&](const T* const* from, int at, int i) {
        for (int r = 0; r < kRows; ++r)
            for (int k = 0; k < kLanes; k += kLine) __builtin_prefetch(from[r] + at + k, 0, 2);
        body(i);
    };
    for (int i = 0; i < own; i += kLanes) step(set.rows, i + kAhead, i);
    for (int i = own; i < full; i += kLanes) step(set.next, i - own, i);
    return full;
}

// The sums of the products of kRows rows with the gradient and with its change, if there is one.
template <int kRows, bool kChange, class T>
FASTOPT_NOINLINE void multiply_history_rows(const HistoryRows<kRows, T>& set, const T* __restrict grad,
                                            const T* __restrict change, int n, double* partials, int64_t stride) {
    alignas(64) double lanes[kRows][2][kLanes] = {};
    const auto add = [&](int r, int l, int i) {
        const double x = double(set.rows[r][i]);
        lanes[r][0][l] = plus_product<T>(lanes[r][0][l], x, double(grad[i]));
        if (kChange) lanes[r][1][l] = plus_product<T>(lanes[r][1][l], x, double(change[i]));
    };
    const int full = for_lanes(set, n, [&](int i) {
        for (int r = 0; r < kRows; ++r)
            for (int l = 0; l < kLanes; ++l) add(r, l, i + l);
    });
    for (int r = 0; r < kRows; ++r)
        for (int i = full; i < n; ++i) add(r, i - full, i);
    for (int r = 0; r < kRows; ++r)
        for (int v = 0; v < (kChange ? 2 : 1); ++v) partials[(2 * r + v) * stride] = merge(lanes[r][v], kPlus);
}

// The newest pair is not in the history yet.
template <class T>
void write_newest(const VectorTask& task, const T* change, int64_t first, int64_t last, int64_t at, int n) {
    const int64_t step = task.row_count / 2 - 1;
    if (first <= step && step < last) {
        const T *const direction = static_cast<const T*>(task.direction) + at, t = T(task.t);
        T* const to = static_cast<T*>(task.rows[step]) + at;
        FASTOPT_VECTORIZE
        for (int i = 0; i < n; ++i) to[i] = t * direction[i];
    }
    if (last == task.row_count)
        __builtin_memcpy(static_cast<T*>(task.rows[last - 1]) + at, change, static_cast<size_t>(n) * sizeof(T));
}

template <bool kChange, class T>
void multiply_group(const VectorTask& task, int64_t chunk, int64_t first, int64_t last) {
    const int64_t at = chunk * task.chunk, then = at + task.chunk < task.n ? task.chunk : 0;
    const int n = int(chunk_end(task, chunk) - at);
    const T* const grad = static_cast<const T*>(task.grad) + at;
    alignas(64) T change[kVectorChunk];
    if (kChange) {
        const T* const previous = static_cast<const T*>(task.previous) + at;
        for (int i = 0; i < n; ++i) change[i] = grad[i] - previous[i];
        write_newest(task, change, first, last, at, n);
    }
    const auto partials = [&](int64_t r) { return task.partials + 2 * r * task.chunks + chunk; };
    int64_t r = first;
    for (; r + kMultiplied <= last; r += kMultiplied)
        multiply_history_rows<kMultiplied, kChange>(HistoryRows<kMultiplied, T>(task, r, first, last, at, then), grad,
                                                    change, n, partials(r), task.chunks);
    for (; r < last; ++r)
        multiply_history_rows<1, kChange>(HistoryRows<1, T>(task, r, first, last, at, then), grad, change, n,
                                          partials(r), task.chunks);
}

template <class T>
void multiply_history(const VectorTask& task, int64_t begin, int64_t end) {
    const int64_t groups = (task.row_count + kRowGroup - 1) / kRowGroup;
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t chunk = unit / groups, first = unit % groups * kRowGroup;
        const int64_t last = first + kRowGroup < task.row_count ? first + kRowGroup : task.row_count;
        if (task.previous != nullptr)
            multiply_group<true, T>(task, chunk, first, last);
        else
            multiply_group<false, T>(task, chunk, first, last);
    }
}

template <int kRows, class T>
FASTOPT_NOINLINE void add_history_rows(const HistoryRows<kRows, T>& set, const double* coefficients,
                                       double* __restrict sums, int n) {
    const auto add = [&](int i) {
        double sum = sums[i];
        for (int r = 0; r < kRows; ++r) sum += coefficients[r] * double(set.rows[r][i]);
        sums[i] = sum;
    };
    const int full = for_lanes(set, n, [&](int i) {
        FASTOPT_VECTORIZE
        for (int k = i; k < i + kLanes; ++k) add(k);
    });
    for (int i = full; i < n; ++i) add(i);
}

template <class T>
void measure_direction(const T* direction, const T* grad, int n, double* partials, int64_t stride) {
    alignas(64) double largest[kLanes] = {}, squares[kLanes] = {}, slope[kLanes] = {};
    by_lane(n, [&](int l, int i) {
        const double d = double(direction[i]);
        largest[l] = maximum(largest[l], magnitude(d));
        squares[l] = plus_product<T>(squares[l], d, d);
        slope[l] = plus_product<T>(slope[l], double(grad[i]), d);
    });
    partials[kLargestStep * stride] = merge(largest, kMaximum);
    partials[kStepSquares * stride] = merge(squares, kPlus);
    partials[kDescent * stride] = merge(slope, kPlus);
}

// out = coefficients[0] * gradient + each row times its coefficient, one after the other.
template <class T>
void combine_rows(const VectorTask& task, int64_t begin, int64_t end) {
    alignas(64) double sums[kVectorChunk];
    const int64_t count = task.row_count;
    for (int64_t chunk = begin; chunk < end; ++chunk) {
        const int64_t at = chunk * task.chunk, then = at + task.chunk < task.n ? task.chunk : 0;
        const int n = int(chunk_end(task, chunk) - at);
        const T* const grad = static_cast<const T*>(task.grad) + at;
        for (int i = 0; i < n; ++i) sums[i] = task.coefficients[0] * double(grad[i]);
        int64_t r = 0;
        for (; r + kCombined <= count; r += kCombined)
            add_history_rows(HistoryRows<kCombined, T>(task, r, 0, count, at, then), task.coefficients + 1 + r, sums,
                             n);
        for (; r < count; ++r)
            add_history_rows(HistoryRows<1, T>(task, r, 0, count, at, then), task.coefficients + 1 + r, sums, n);
        T* const out = static_cast<T*>(task.out) + at;
        FASTOPT_VECTORIZE
        for (int i = 0; i < n; ++i) out[i] = T(sums[i]);
        measure_direction(out, grad, n, task.partials + chunk, task.chunks);
    }
}

}  // namespace
}  // namespace fastopt
