// Many tensors in one launch: a table of them travels as the kernel's parameter, and every block has a part of one.
#pragma once

#include "launch.h"

namespace fastopt::cuda {
namespace {

// Of a launch: room for `kArrays` arrays of each tensor.
template <int kArrays>
struct Tensors {
    static constexpr int kEach = kArrays * int(sizeof(void*)) + 8 + 8 + 4 + kArrays;
    static constexpr int kMax = (int(kParameterBytes) - 32) / kEach;

    void* arrays[kMax][kArrays];
    int64_t n[kMax];
    const ScalarSet* scalars[kMax];
    uint32_t end[kMax];  // the first block behind the tensor's
    DType types[kMax][kArrays];
    int count;
};

// A block's part of a tensor.
struct Part {
    int tensor;
    int64_t begin, end;
};

// The part of this block, `size` elements of a tensor at most.
template <class Table>
__device__ __forceinline__ Part part_of_block(const Table& tensors, int64_t size) {
    int low = 0, high = tensors.count - 1;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (blockIdx.x < tensors.end[middle])
            high = middle;
        else
            low = middle + 1;
    }
    const int64_t block = blockIdx.x - (low == 0 ? 0u : tensors.end[low - 1]);
    const int64_t begin = block * size, n = tensors.n[low];
    return {low, begin, n - begin < size ? n : begin + size};
}

// Calls start(tensors, blocks) for all tasks, as many at a time as the table holds, with parts of `size` elements.
// `fill(tensors, i, task)` sets the arrays of the i-th tensor.
template <int kArrays, class Fill, class Start>
void for_tables(const Task* const* tasks, int count, int64_t size, Fill fill, Start start) {
    Tensors<kArrays> tensors;
    tensors.count = 0;
    int64_t blocks = 0;
    for (int i = 0; i < count; ++i) {
        const int64_t own = (tasks[i]->n + size - 1) / size;
        if (tensors.count == tensors.kMax || blocks + own > INT32_MAX) {
            start(tensors, blocks);
            tensors.count = 0;
            blocks = 0;
        }
        const int k = tensors.count++;
        fill(tensors, k, *tasks[i]);
        tensors.n[k] = tasks[i]->n;
        tensors.scalars[k] = tasks[i]->scalars;
        tensors.end[k] = static_cast<uint32_t>(blocks += own);
    }
    if (blocks > 0) start(tensors, blocks);
}

}  // namespace
}  // namespace fastopt::cuda
