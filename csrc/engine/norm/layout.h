// How normalizations see the memory of a tensor.
#pragma once

#include "engine/interop/tensor.h"
#include "norm/task.h"

namespace fastopt {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// `tensor` is dense, not empty, and has at least two dimensions; the second is the channels.
NormLayout lay_out_channels(const TensorView& tensor);

// The same where each sample has statistics for `groups` groups of channels. Sets the layouts and `samples` of a task.
// Returns false unless samples follow each other in memory, and in them channels, or their neighbours (channels-last).
bool lay_out_groups(const TensorView& tensor, int64_t groups, NormTask& task);

// Contiguous rows, each one a set.
NormLayout lay_out_rows(int64_t rows, int64_t length);

// The units of the kernels that sum, and the approximate number of elements per unit.
struct Units {
    int64_t count, elements;
};
Units units_of_sums(const NormLayout& layout);

}  // namespace fastopt
