// The dropout family as Python calls it. Tensors that the kernels cannot take as they are make a
// function return false, and nothing has been written then; the caller brings them into shape.
//
// All tensors of a call are on one device. A seed is a number or, on a CUDA device, also a 0-dim int64 tensor there,
// which its kernels read.
#pragma once

#include <pybind11/pybind11.h>

#include "random/task.h"

namespace fastopt {

// {name: (names of its scalars, reads a residual, reads a bias)}
pybind11::dict describe_dropouts();

// out = rule(input, residual, bias), dense and of one layout and type; the bias runs along the last
// dimension of a contiguous input. `out` may be `input`. The mask's elements are those of the first
// `mask_dims` dimensions in C order, each for all of the dimensions that follow.
bool drop(const char* rule, pybind11::handle out, pybind11::handle input, pybind11::handle residual,
          pybind11::handle bias, int mask_dims, pybind11::handle seed, uint64_t offset, uint64_t threshold,
          const pybind11::tuple& scalars, int threads);

// grad_input (or None) = dropout(grad); grad_bias = its sum over all dimensions but the last. All
// contiguous, of one type.
bool drop_and_sum(pybind11::handle grad_input, pybind11::handle grad_bias, pybind11::handle grad, pybind11::handle seed,
                  uint64_t offset, uint64_t threshold, double scale, int threads);

// The first `n` flags of a mask into a contiguous tensor: a byte each, or, `packed`, a bit.
void write_mask(pybind11::handle out, int64_t n, bool packed, pybind11::handle seed, uint64_t offset,
                uint64_t threshold, int threads);

// What masks are made of: the blocks of counters from `first` on, four 32-bit words each, into a contiguous int32
// tensor.
void philox_blocks(pybind11::handle out, uint64_t key, uint64_t first, uint64_t counter_high);

}  // namespace fastopt
