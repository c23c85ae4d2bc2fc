// Adafactor between its walks over matrices, on a device: means and factors of rows and columns.
#pragma once

#include "cuda/optim/group_sum.h"
#include "cuda/optim/kept.h"
#include "cuda/optim/matrices.h"
#include "cuda/optim/scalars.h"
#include "rules/adafactor.h"

namespace fastopt::cuda {
namespace {

constexpr int kMeanThreads = 256;
constexpr int kJoiners = 8;  // the most threads that share the parts of a sum: each has every 8th of 32 lanes

// The rows or the columns of `count` matrices: `n` sums each, which come in `parts` and give means of `terms` elements.
struct Axis {
    int64_t count, n, parts, terms;

    FASTOPT_HD static Axis rows_of(const Matrices& shape) {
        return {shape.count, shape.rows, tiles_along(shape.columns, kTileColumns), shape.columns};
    }
    FASTOPT_HD static Axis columns_of(const Matrices& shape) {
        return {shape.count, shape.columns, tiles_along(shape.rows, kTileRows), shape.rows};
    }

    FASTOPT_HD int joiners() const { return power_of_two(parts, kJoiners); }
    FASTOPT_HD int width() const { return kMeanThreads / joiners(); }  // sums per block
    FASTOPT_HD int64_t blocks() const { return tiles_along(count * n, width()); }
};

inline int64_t mean_blocks(const Task& task) {
    return Axis::rows_of(task.shape).blocks() + Axis::columns_of(task.shape).blocks();
}

// The merged lanes of one joiner's share of a sum; the parts are `stride` apart.
__device__ __forceinline__ double join_lanes(const double* sums, int64_t parts, int64_t stride, int joiner) {
    double lanes[kLanes / kJoiners] = {};
    for (int64_t part = joiner; part < parts; part += kLanes)
        for (int k = 0; k < kLanes / kJoiners; ++k)
            if (part + k * kJoiners < parts) lanes[k] += sums[(part + k * kJoiners) * stride];
    static_assert(kLanes / kJoiners == 4);
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

// Adds up the parts of rows and columns, moves the states, and writes their new values to the scratch memory: rows as
// they are, columns as factors.
template <class T>
__global__ void __launch_bounds__(kMeanThreads) move_means(const __grid_constant__ MatrixTensors tensors) {
    FASTOPT_SHARED(double[kMeanThreads], joined);
    const int tensor = tensor_of_block(tensors);
    const ScalarSet& set = *tensors.scalars[tensor];
    if (set.skip != 0) return;
    const FactoredScratch scratch = scratch_of(tensors, tensor);
    int64_t block = block_within(tensors, tensor);
    Axis axis = Axis::rows_of(tensors.shapes[tensor]);
    const int64_t row_blocks = axis.blocks();
    const bool by_row = block < row_blocks;
    if (!by_row) {
        axis = Axis::columns_of(tensors.shapes[tensor]);
        block -= row_blocks;
    }

    const int width = axis.width(), joiner = int(threadIdx.x) / width;
    const int64_t i = block * width + int(threadIdx.x) % width;
    const bool exists = i < axis.count * axis.n;
    if (exists) {
        const int64_t matrix = i / axis.n;
        const double* const sums = by_row ? scratch.row_sums(matrix) : scratch.column_sums(matrix);
        joined[threadIdx.x] = join_lanes(sums + i % axis.n, axis.parts, axis.n, joiner);
    }
    __syncthreads();
    if (!exists || joiner != 0) return;
    double sums[kJoiners];
    for (int k = 0; k < kJoiners; ++k) sums[k] = k < axis.joiners() ? joined[int(threadIdx.x) + k * width] : 0;
    for (int half = kJoiners / 2; half > 0; half /= 2)
        for (int k = 0; k < half; ++k) sums[k] += sums[k + half];

    const auto c = scalars_from<Adafactor::Scalars>(rule_of<T>(set));
    const Kept<T> kept(tensors, tensor, set, kFirstState);
    const int state = by_row ? 0 : 1;
    const T mean = Adafactor::moved_mean(kept.load_state(state, i), sums[0], axis.terms, c);
    kept.store_number(state, i, mean, kept.random_at(i));
    if (by_row)
        scratch.row_factors<T>(0)[i] = mean;
    else
        scratch.column_factors<T>(0)[i] = Adafactor::inverse_root(mean);
}

// The size of the thread group that takes the rows of a matrix.
FASTOPT_HD int row_threads(const Matrices& shape) { return power_of_two(shape.rows, kSummers); }

// Turns the means of rows into factors.
template <class T>
__global__ void __launch_bounds__(kSummers) make_row_factors(const __grid_constant__ MatrixTensors tensors) {
    FASTOPT_SHARED(double[kSummers], lanes);
    const int tensor = tensor_of_block(tensors);
    const ScalarSet& set = *tensors.scalars[tensor];
    if (set.skip != 0) return;
    const Matrices& shape = tensors.shapes[tensor];
    const int threads = row_threads(shape), index = int(threadIdx.x) % threads;
    const int64_t matrix = block_within(tensors, tensor) * (int(blockDim.x) / threads) + int(threadIdx.x) / threads;
    const bool exists = matrix < shape.count;
    T* const factors = scratch_of(tensors, tensor).row_factors<T>(matrix);
    const double sum = group_sum(factors, shape.rows, exists, threads, lanes);
    if (!exists) return;
    const auto c = scalars_from<Adafactor::Scalars>(rule_of<T>(set));
    const T mean = Adafactor::mean_of_rows(sum, shape.rows, c);
    for (int64_t row = index; row < shape.rows; row += threads)
        factors[row] = Adafactor::inverse_root(factors[row] / mean);
}

}  // namespace
}  // namespace fastopt::cuda
