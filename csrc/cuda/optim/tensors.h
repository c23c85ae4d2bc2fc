// Many tensors in one launch: the kernel's parameter is a table of them, and every block takes a part of one tensor.
#pragma once

#include "cuda/launch.h"
#include "math/sums.h"
#include "rules/caution.h"

namespace fastopt::cuda {
namespace {

// The tensors of one launch, with `kArrays` arrays each.
template <int kArrays>
struct Tensors {
    static constexpr int kEach = kArrays * int(sizeof(void*)) + 8 + 8 + 8 + 4 + kArrays;
    static constexpr int kMax = (int(kParameterBytes) - 32) / kEach;

    void* arrays[kMax][kArrays];
    int64_t n[kMax];
    const ScalarSet* scalars[kMax];
    const Storage* storages[kMax];  // null where everything is kept as usual
    uint32_t end[kMax];             // the first block after the tensor's blocks
    DType types[kMax][kArrays];
    int count;
};

// Whether a tensor is kept in a special way, its update is cautious, or its gradient has another type.
inline bool is_special(const Task& task) {
    return task.storage != nullptr || is_cautious(*task.constants) ||
           (task.grad.data != nullptr && task.grad.type != task.param.type);
}

// A block's part of a tensor.
struct BlockSpan {
    int tensor;
    int64_t begin, end;
};

// The tensor that this block works on.
template <class Table>
__device__ __forceinline__ int tensor_of_block(const Table& tensors) {
    int low = 0, high = tensors.count - 1;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (blockIdx.x < tensors.end[middle])
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

// This block's index among its tensor's blocks.
template <class Table>
__device__ __forceinline__ int64_t block_within(const Table& tensors, int tensor) {
    return blockIdx.x - (tensor == 0 ? 0u : tensors.end[tensor - 1]);
}

// This block's part: at most `size` elements of a tensor.
template <class Table>
__device__ __forceinline__ BlockSpan span_of_block(const Table& tensors, int64_t size) {
    const int tensor = tensor_of_block(tensors);
    const int64_t begin = block_within(tensors, tensor) * size, n = tensors.n[tensor];
    return {tensor, begin, n - begin < size ? n : begin + size};
}

// Where each warp of a block has a chunk of the block's part: the first element of this warp's chunk, which may lie
// after the part, and its end.
__device__ __forceinline__ int64_t chunk_of_warp(const BlockSpan& span) {
    return span.begin + int64_t(threadIdx.x) / kLanes * kSumChunk;
}
__device__ __forceinline__ int64_t end_of_chunk(const BlockSpan& span, int64_t begin) {
    return span.end - begin < kSumChunk ? span.end : begin + kSumChunk;
}

// Calls start(tensors, blocks) for all tasks, as many at a time as a table holds. The i-th tensor gets blocks_of(task)
// blocks, and fill(tensors, i, task) sets the fields specific to the table.
template <class Table, class BlocksOf, class Fill, class Start>
void for_tables(const Task* const* tasks, int count, BlocksOf blocks_of, Fill fill, Start start) {
    Table tensors;
    tensors.count = 0;
    int64_t blocks = 0;
    for (int i = 0; i < count; ++i) {
        const int64_t own = blocks_of(*tasks[i]);
        if (tensors.count == tensors.kMax || blocks + own > INT32_MAX) {
            start(tensors, blocks);
            tensors.count = 0;
            blocks = 0;
        }
        const int k = tensors.count++;
        fill(tensors, k, *tasks[i]);
        tensors.scalars[k] = tasks[i]->scalars;
        tensors.storages[k] = tasks[i]->device_storage;
        tensors.end[k] = static_cast<uint32_t>(blocks += own);
    }
    if (blocks > 0) start(tensors, blocks);
}

// The same for parts of `size` elements; `fill` sets the arrays.
template <int kArrays, class Fill, class Start>
void for_tables(const Task* const* tasks, int count, int64_t size, Fill fill, Start start) {
    for_tables<Tensors<kArrays>>(
        tasks, count, [size](const Task& task) { return (task.n + size - 1) / size; },
        [&](Tensors<kArrays>& tensors, int i, const Task& task) {
            fill(tensors, i, task);
            tensors.n[i] = task.n;
        },
        start);
}

}  // namespace
}  // namespace fastopt::cuda
