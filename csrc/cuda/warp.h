// What the threads of a warp do together.
#pragma once

#include <cuda_runtime.h>

#include "../rules/sums.h"

namespace fastopt {
namespace {

// Halves onto halves, as the CPU merges its lanes; the result is lane 0's.
template <class Join>
__device__ __forceinline__ double merge_lanes(double lane, Join join) {
    for (int half = kLanes / 2; half > 0; half /= 2) lane = join(lane, __shfl_down_sync(~0u, lane, half));
    return lane;
}

}  // namespace
}  // namespace fastopt
