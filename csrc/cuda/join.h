// Joins the results of chunks in the CPU's shape (in_lanes in cpu/reductions.h): all threads of a block load, its first
// warp adds up.
#pragma once

#include "cuda/launch.h"
#include "cuda/warp.h"

namespace fastopt::cuda {
namespace {

// The block's first thread has the result. All threads must call this.
template <int kStaged, class Join>
__device__ __forceinline__ double join_in_block(const double* partials, int64_t n, double start,
                                                double (&staged)[kStaged], Join join) {
    static_assert(kStaged % kLanes == 0);
    double sum = start;
    for (int64_t first = 0; first < n; first += kStaged) {
        const int count = int(n - first < kStaged ? n - first : kStaged);
        for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) staged[i] = partials[first + i];
        __syncthreads();
        if (threadIdx.x < kLanes)
            for (int i = int(threadIdx.x); i < count; i += kLanes) sum = join(sum, staged[i]);
        __syncthreads();
    }
    return threadIdx.x < kLanes ? merge_lanes(sum, join) : sum;
}

}  // namespace
}  // namespace fastopt::cuda
