// How the elements of a mask lie along the memory of a tensor.
#pragma once

#include "random/task.h"
#include "tensor.h"

namespace fastopt {

// `tensor` is dense. The mask's elements are those of its first `mask_dims` dimensions in C order.
void lay_out_mask(const TensorView& tensor, int mask_dims, MaskLayout& out);

// A mask whose elements lie in memory one after the other.
void lay_out_flat(int64_t n, MaskLayout& out);

}  // namespace fastopt
