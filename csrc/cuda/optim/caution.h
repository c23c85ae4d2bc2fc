// Cautious updates and decays (rules/caution.h) on a device: the kernel of special tasks counts the mask in a pass of
// its own, a warp at a time. Then a block makes the factor of its tensor, and the usual pass applies it.
#pragma once

#include "cuda/optim/passes.h"
#include "rules/caution.h"

namespace fastopt::cuda {
namespace {

// `scratch`: of a task whose updates are cautious; it begins with the factor.
template <class T>
__device__ __forceinline__ Caution<T> caution_of(const ScalarSet& set, T decay, const double* scratch, bool counts) {
    const bool has_factor = set.masks != 0 && !counts;
    return {decay, has_factor ? T(*scratch) : T(1), set.masks != 0, set.decays_cautiously != 0};
}

// Leaves the sum of a block's counts in the block's place. All threads of the block must call this.
template <int kWarps>
__device__ __forceinline__ void leave_count(int agreeing, double* place) {
    FASTOPT_SHARED(double[kWarps], of_warps);
    const double of_warp = merge_lanes(double(agreeing), Squares::join);
    if (threadIdx.x % kLanes == 0) of_warps[threadIdx.x / kLanes] = of_warp;
    __syncthreads();
    if (threadIdx.x != 0) return;
    double sum = 0;
    for (int warp = 0; warp < kWarps; ++warp) sum += of_warps[warp];
    *place = sum;
}

// Arrays: scratch memory, with the factor and then the counts of parts of `part` elements.
__global__ void __launch_bounds__(kSummers) make_factors(const __grid_constant__ Tensors<1> tensors, int64_t part) {
    FASTOPT_SHARED(double[kTeams], lanes);
    const int tensor = tensor_of_block(tensors);
    if (tensors.scalars[tensor]->skip != 0) return;
    double* const scratch = static_cast<double*>(tensors.arrays[tensor][0]);
    const int64_t n = tensors.n[tensor];
    const double agreeing = group_sum(scratch + 1, tiles_along(n, part), true, int(blockDim.x), lanes);
    if (threadIdx.x == 0) *scratch = Caution<double>::factor_of(agreeing, n);
}

// The tasks whose updates are cautious.
inline Tasks masked_of(const Tasks& tasks) {
    Tasks masked;
    for (const Task* task : tasks)
        if (task->constants->masks) masked.push_back(task);
    return masked;
}

inline void start_factors(const Stream& stream, const Tasks& tasks, int64_t part) {
    const auto fill = [](Tensors<1>& tensors, int i, const Task& task) {
        tensors.arrays[i][0] = task.scratch;
        tensors.n[i] = task.n;
    };
    const int threads = summing_threads(tasks, [part](const Task& task) { return tiles_along(task.n, part); });
    for_tables<Tensors<1>>(
        tasks.data(), static_cast<int>(tasks.size()), [](const Task&) { return 1; }, fill,
        [&](const Tensors<1>& tensors, int64_t blocks) {
            launch(stream, "cautious factors", make_factors, {blocks, threads}, tensors, part);
        });
}

}  // namespace
}  // namespace fastopt::cuda
