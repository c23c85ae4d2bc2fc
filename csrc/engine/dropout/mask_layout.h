// How the elements of a mask lie along the memory of a tensor.
#pragma once

#include "engine/interop/tensor.h"
#include "random/task.h"

namespace fastopt {

// `tensor` is dense. The mask's elements are those of its first `mask_dims` dimensions in C order.
void lay_out_mask(const TensorView& tensor, int mask_dims, MaskLayout& out);

}  // namespace fastopt
