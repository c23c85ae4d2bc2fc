// Sums of the one fixed shape (cpu/reductions.h), by a group of a block's threads each.
#pragma once

#include "cuda/launch.h"
#include "cuda/warp.h"

namespace fastopt::cuda {
namespace {

constexpr int kSummers = 512;  // threads of a large group: a warp for every two of the 32 lanes that chunks go through
constexpr int kTeams = kSummers / kLanes;

// The least power of two that is not below n, but not more than `most`, which is one.
FASTOPT_HD int power_of_two(int64_t n, int most) {
    int power = 1;
    while (power < most && power < n) power *= 2;
    return power;
}

// For each group of `threads` threads the sum of n values of its own, or of none. `threads` is a power of two, kSummers
// or not below n. In shared memory, `lanes` has room for those of all groups: min(threads, 32) threads share one. All
// threads of the block come here.
template <class T>
__device__ __forceinline__ double group_sum(const T* values, int64_t n, bool any, int threads, double* lanes) {
    const int width = threads < kLanes ? threads : kLanes;  // lanes that are not empty
    const int teams = threads / width, team = int(threadIdx.x) / width, lane = int(threadIdx.x) % width;
    const int first = team - team % teams;  // of the group
    double sums[2] = {};                    // of lanes kTeams apart, which are merged first
    static_assert(2 * kTeams == kLanes);
    for (int k = 0; k < 2; ++k)
        for (int64_t chunk = (team - first + k * kTeams) * kSumChunk; chunk < n; chunk += kLanes * kSumChunk) {
            const int64_t size = n - chunk < kSumChunk ? n - chunk : kSumChunk;
            const auto value = [](T element) { return double(element); };
            const double own = gather_lane(values + chunk, any ? size : 0, lane, width, 0, value, Squares::join);
            sums[k] += merge_lanes(own, Squares::join, width);
        }
    if (lane == 0) lanes[team] = sums[0] + sums[1];
    __syncthreads();
    const int in_warp = int(threadIdx.x) % kLanes;
    const double whole = merge_lanes(lanes[first + in_warp % teams], Squares::join, teams);
    return __shfl_sync(~0u, whole, in_warp - in_warp % teams);
}

}  // namespace
}  // namespace fastopt::cuda
