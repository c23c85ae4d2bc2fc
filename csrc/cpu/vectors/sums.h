// Sums over vectors. A chunk has 32 lanes, the results of all chunks go through 32 lanes once more, all in double.
#pragma once

#include "cpu/reductions.h"
#include "cpu/vectors/segments.h"

namespace fastopt {
namespace {

// sum + a * b, of numbers of type T. A product of two float32 is exact in float64, so one fused operation rounds as the
// two do.
template <class T>
FASTOPT_HD double plus_product(double sum, double a, double b) {
#if defined(__FMA__)
    if constexpr (sizeof(T) == sizeof(float)) return __builtin_fma(a, b, sum);
#endif
    return sum + a * b;
}

// Calls add(lane, i) for all i below n, where element i belongs to lane i % 32.
template <class Add>
FASTOPT_HD void by_lane(int n, Add add) {
    int i = 0;
    for (; i + kLanes <= n; i += kLanes)
        for (int l = 0; l < kLanes; ++l) add(l, i + l);
    for (int l = 0; i + l < n; ++l) add(l, i + l);
}

constexpr auto kMaximum = [](double a, double b) { return maximum(a, b); };

template <class T>
FASTOPT_NOINLINE void measure_grad(const T* grad, int n, double* partials, int64_t stride) {
    alignas(64) double largest[kLanes] = {}, magnitudes[kLanes] = {}, squares[kLanes] = {};
    by_lane(n, [&](int l, int i) {
        const double size = magnitude(double(grad[i]));
        largest[l] = maximum(largest[l], size);
        magnitudes[l] += size;
        squares[l] = plus_product<T>(squares[l], grad[i], grad[i]);
    });
    partials[kLargest * stride] = merge(largest, kMaximum);
    partials[kMagnitudes * stride] = merge(magnitudes, kPlus);
    partials[kSquares * stride] = merge(squares, kPlus);
}

template <class T>
FASTOPT_NOINLINE double dot(const T* a, const T* b, int n) {
    alignas(64) double lanes[kLanes] = {};
    by_lane(n, [&](int l, int i) { lanes[l] = plus_product<T>(lanes[l], a[i], b[i]); });
    return merge(lanes, kPlus);
}

template <class T>
FASTOPT_NOINLINE void measure_change(const T* grad, const T* previous, const T* direction, int n, double* partials,
                                     int64_t stride) {
    alignas(64) double slope[kLanes] = {}, squares[kLanes] = {}, product[kLanes] = {};
    by_lane(n, [&](int l, int i) {
        const T change = grad[i] - previous[i];
        slope[l] = plus_product<T>(slope[l], change, direction[i]);
        squares[l] = plus_product<T>(squares[l], change, change);
        product[l] = plus_product<T>(product[l], grad[i], change);
    });
    partials[kSlopeChange * stride] = merge(slope, kPlus);
    partials[kChangeSquares * stride] = merge(squares, kPlus);
    partials[kChange * stride] = merge(product, kPlus);
}

// What is measured only with a direction is 0 without one.
template <class T>
void measure_chunk(const VectorTask& task, int64_t chunk) {
    const int64_t at = chunk * task.chunk;
    const int n = int(chunk_end(task, chunk) - at);
    const T* const grad = static_cast<const T*>(task.out) + at;
    double* const partials = task.partials + chunk;
    measure_grad(grad, n, partials, task.chunks);
    if (task.direction == nullptr) return;
    const T* const direction = static_cast<const T*>(task.direction) + at;
    partials[kSlope * task.chunks] = dot(grad, direction, n);
    measure_change(grad, static_cast<const T*>(task.previous) + at, direction, n, partials, task.chunks);
}

template <class T>
void gather_vector(const VectorTask& task, int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
        gather_chunk<T>(task, chunk);
        if (task.measures) measure_chunk<T>(task, chunk);
    }
}

FASTOPT_HD double join_sum(const VectorTask& task, int64_t sum, bool largest) {
    const double* const partials = task.partials + sum * task.chunks;
    return largest ? in_lanes(partials, task.chunks, 0, kMaximum) : in_lanes(partials, task.chunks, 0, kPlus);
}

void join_gathered(const VectorTask& task, int64_t begin, int64_t end) {
    for (int64_t sum = begin; sum < end; ++sum)
        task.sums[sum] = sum >= kSlope && task.direction == nullptr ? 0 : join_sum(task, sum, sum == kLargest);
}

void join_combined(const VectorTask& task, int64_t begin, int64_t end) {
    for (int64_t sum = begin; sum < end; ++sum) task.sums[sum] = join_sum(task, sum, sum == kLargestStep);
}

// Without a change of the gradient its products are 0.
void join_multiplied(const VectorTask& task, int64_t begin, int64_t end) {
    for (int64_t sum = begin; sum < end; ++sum)
        task.sums[sum] = sum % 2 == 1 && task.previous == nullptr ? 0 : join_sum(task, sum, false);
}

}  // namespace
}  // namespace fastopt
