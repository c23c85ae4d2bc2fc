// How batch normalization sees the memory of a tensor.
#pragma once

#include "engine/interop/tensor.h"
#include "norm/task.h"

namespace fastopt {

// `tensor` is dense, not empty, and has at least two dimensions; the second is the channels.
NormLayout lay_out_channels(const TensorView& tensor);

// The units of the kernels that sum, and the approximate number of elements per unit.
struct Units {
    int64_t count, elements;
};
Units units_of_sums(const NormLayout& layout);

}  // namespace fastopt
