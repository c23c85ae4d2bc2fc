// Rows of tensors in the CPU's memory, for sparse gradients.
#pragma once

#include "engine/interop/tensor.h"

namespace fastopt {

// Adds up the rows of `values` that have the same number, in the given order. Writes ascending numbers and their sums,
// and returns their count. `numbers` are int64, `values` float32 or float64, all contiguous; otherwise writes nothing
// and returns -1.
int64_t sum_rows(pybind11::handle numbers, pybind11::handle values, pybind11::handle out_numbers,
                 pybind11::handle out_values, int threads);

// Copies the rows of a contiguous `tensor` with these numbers, all different, to `rows`, or `back` to the tensor.
// Returns false, having written nothing, for any other tensor, or if it has no such row.
bool copy_rows(pybind11::handle tensor, pybind11::handle numbers, pybind11::handle rows, bool back, int threads);

}  // namespace fastopt
