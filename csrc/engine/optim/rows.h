// Rows of the CPU's tensors: what a sparse gradient touches.
#pragma once

#include "engine/interop/tensor.h"

namespace fastopt {

// Adds up the rows of `values` that have the same number, in the order they are given in.
// Writes ascending numbers and their sums, and returns how many. `numbers` are int64; all are contiguous, `values` of
// float32 or float64. -1, and nothing is written, where they are not.
int64_t sum_rows(pybind11::handle numbers, pybind11::handle values, pybind11::handle out_numbers,
                 pybind11::handle out_values, int threads);

// Copies the rows of a contiguous `tensor` that have these numbers, each another one, to `rows`, or `back`. False, and
// nothing is written, where a tensor is of another kind or has no such row.
bool copy_rows(pybind11::handle tensor, pybind11::handle numbers, pybind11::handle rows, bool back, int threads);

}  // namespace fastopt
