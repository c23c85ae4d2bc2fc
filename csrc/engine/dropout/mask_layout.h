// How the elements of a mask lie along the memory of a tensor.
#pragma once

#include "engine/interop/tensor.h"
#include "random/task.h"

namespace fastopt {

// `tensor` must be dense. The mask has one element, in C order, per index of the first `mask_dims` dimensions.
void lay_out_mask(const TensorView& tensor, int mask_dims, MaskLayout& out);

}  // namespace fastopt
