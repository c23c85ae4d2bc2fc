// The dropout family as Python calls it. A function returns false, having written nothing, if the kernels cannot take
// the tensors as they are; the caller then makes copies that they can take.
//
// All tensors of a call are on one device. A seed is a number or, on a CUDA device, a 0-dim int64 tensor there, which
// the kernels read.
#pragma once

#include <pybind11/pybind11.h>

#include "random/task.h"

namespace fastopt {

// {name: (names of its scalars, whether it reads a residual, whether it reads a bias)}
pybind11::dict describe_dropouts();

// out = rule(input, residual, bias). The tensors are dense and have one layout and type; the bias belongs to the last
// dimension of a contiguous input. `out` may be `input`. The mask has one element, in C order, per index of the first
// `mask_dims` dimensions; it applies to all elements with that index.
bool drop(const char* rule, pybind11::handle out, pybind11::handle input, pybind11::handle residual,
          pybind11::handle bias, int mask_dims, pybind11::handle seed, uint64_t offset, uint64_t threshold,
          const pybind11::tuple& scalars, int threads);

// grad_input (may be None) = dropout(grad); grad_bias = its sum over all dimensions but the last. All tensors are
// contiguous and of one type.
bool drop_and_sum(pybind11::handle grad_input, pybind11::handle grad_bias, pybind11::handle grad, pybind11::handle seed,
                  uint64_t offset, uint64_t threshold, double scale, int threads);

// Writes the first `n` flags of a mask to a contiguous tensor: one byte each, or, `packed`, one bit.
void write_mask(pybind11::handle out, int64_t n, bool packed, pybind11::handle seed, uint64_t offset,
                uint64_t threshold, int threads);

// Writes the Philox blocks of the counters from `first` on to a contiguous int32 tensor, four 32-bit words each.
void philox_blocks(pybind11::handle out, uint64_t key, uint64_t first, uint64_t counter_high);

}  // namespace fastopt
