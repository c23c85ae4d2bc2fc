// How batch normalization sees the memory of a tensor.
#pragma once

#include "engine/interop/tensor.h"
#include "norm/task.h"

namespace fastopt {

// `tensor` is dense and has at least two dimensions, the second for channels; it is not empty.
NormLayout lay_out_channels(const TensorView& tensor);

// Units of the kernels that sum, and elements in one of them, about.
struct Units {
    int64_t count, elements;
};
Units units_of_sums(const NormLayout& layout);

}  // namespace fastopt
