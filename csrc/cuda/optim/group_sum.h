// Sums in the fixed shape of cpu/reductions.h, one per group of a block's threads.
#pragma once

#include "cuda/launch.h"
#include "cuda/warp.h"

namespace fastopt::cuda {
namespace {

constexpr int kSummers = 512;  // threads of a large group: one warp per two of the 32 lanes that chunks go through
constexpr int kTeams = kSummers / kLanes;

// The least power of two that is at least n, but at most `most`, a power of two.
FASTOPT_HD int power_of_two(int64_t n, int most) {
    int power = 1;
    while (power < most && power < n) power *= 2;
    return power;
}

// Returns to each group of `threads` threads the sum of its n values, or 0 if it has none. `threads` is a power of two,
// and is kSummers or at least n. The shared memory `lanes` holds one number per min(threads, 32) threads. All threads
// of the block must call this.
template <class T>
__device__ __forceinline__ double group_sum(const T* values, int64_t n, bool any, int threads, double* lanes) {
    const int width = threads < kLanes ? threads : kLanes;  // lanes that are not empty
    const int teams = threads / width, team = int(threadIdx.x) / width, lane = int(threadIdx.x) % width;
    const int first = team - team % teams;  // the group's first team
    double sums[2] = {};                    // sums of two lanes kTeams apart, which are merged first
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
