// Joins the results of chunks in the CPU's shape (in_lanes in cpu/reductions.h): all threads of a block load, its first
// warp adds up.
#pragma once

#include "cuda/launch.h"
#include "cuda/memory.h"
#include "cuda/warp.h"

namespace fastopt::cuda {
namespace {

// The block's first thread has the result. All kThreads threads must call this; each fetches its next partial results
// while the first warp adds up the last ones.
template <int kThreads, int kStaged, class Join>
__device__ __forceinline__ double join_in_block(const double* partials, int64_t n, double start,
                                                double (&staged)[kStaged], Join join) {
    static_assert(kStaged % kThreads == 0 && kStaged % kLanes == 0);
    constexpr int kOwn = kStaged / kThreads;
    double sum = start, loaded[kOwn] = {};
    const auto load = [&](int64_t first) {
        FASTOPT_UNROLL
        for (int k = 0; k < kOwn; ++k) {
            const int64_t i = first + k * kThreads + threadIdx.x;
            if (i < n) loaded[k] = partials[i];
        }
    };
    load(0);
    for (int64_t first = 0; first < n; first += kStaged) {
        FASTOPT_UNROLL
        for (int k = 0; k < kOwn; ++k) staged[k * kThreads + int(threadIdx.x)] = loaded[k];
        __syncthreads();
        load(first + kStaged);
        const int count = int(n - first < kStaged ? n - first : kStaged);
        if (threadIdx.x < kLanes)
            for (int i = int(threadIdx.x); i < count; i += kLanes) sum = join(sum, staged[i]);
        __syncthreads();
    }
    return threadIdx.x < kLanes ? merge_lanes(sum, join) : sum;
}

}  // namespace
}  // namespace fastopt::cuda
