// What the threads of a warp do together.
#pragma once

#include <cuda_runtime.h>

#include "math/sums.h"

namespace fastopt {
namespace {

constexpr int kLoads = 8;  // in flight per thread

// Joins every `lanes`-th of n elements, from the `lane`-th on.
template <class T, class Term, class Join>
__device__ __forceinline__ double gather_lane(const T* elements, int64_t n, int lane, int lanes, double start,
                                              Term term, Join join) {
    double sum = start;
    int64_t at = lane;
    for (; at + (kLoads - 1) * lanes < n; at += kLoads * lanes) {
        T loaded[kLoads];
        for (int k = 0; k < kLoads; ++k) loaded[k] = elements[at + k * lanes];
        for (int k = 0; k < kLoads; ++k) sum = join(sum, term(loaded[k]));
    }
    for (; at < n; at += lanes) sum = join(sum, term(elements[at]));
    return sum;
}

// Merges halves onto halves, like the CPU; lane 0 has the result. All threads of the warp must call this. Where
// `lanes`, a power of two, is less than 32, each group of `lanes` threads has a result.
template <class Join>
__device__ __forceinline__ double merge_lanes(double lane, Join join, int lanes = kLanes) {
    for (int half = lanes / 2; half > 0; half /= 2) lane = join(lane, __shfl_down_sync(~0u, lane, half));
    return lane;
}

// The same where each of `threads` threads has `kWidth` neighbouring lanes: first those of other threads.
template <int kWidth, class Join>
__device__ __forceinline__ double merge_lanes(double (&lanes)[kWidth], Join join, int threads) {
    for (int e = 0; e < kWidth; ++e) lanes[e] = merge_lanes(lanes[e], join, threads);
    for (int half = kWidth / 2; half > 0; half /= 2)
        for (int e = 0; e < half; ++e) lanes[e] = join(lanes[e], lanes[e + half]);
    return lanes[0];
}

// The largest number of the warp, in all its threads, which must all call this.
__device__ __forceinline__ uint32_t largest_in_warp(uint32_t number) {
    for (int half = kLanes / 2; half > 0; half /= 2) {
        const uint32_t other = __shfl_xor_sync(~0u, number, half);
        number = number > other ? number : other;
    }
    return number;
}

}  // namespace
}  // namespace fastopt
