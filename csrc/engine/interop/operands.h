// Tensors as operands of a kernel: takes what Python passed if a kernel can use it as it is.
#pragma once

#include "engine/interop/tensor.h"

namespace fastopt {

// Whether Python passed None in place of a tensor.
inline bool absent(pybind11::handle tensor) { return tensor.is_none(); }

// Takes a dense tensor whose values are in memory of the CPU or of a device.
bool take(pybind11::handle tensor, TensorView& out);

// The same, if it also has the device, type and layout of `like`.
bool take_like(pybind11::handle tensor, const TensorView& like, TensorView& out);

// Takes a result: one of the operands, or a fresh tensor, which cannot be lazily negated.
bool take_out(pybind11::handle tensor, const TensorView& like, TensorView& out);

inline Array array_of(const TensorView& tensor) { return {tensor.data, tensor.type}; }

// Tells the system that fresh memory is about to be written.
void expect_first_write(const TensorView& result);

}  // namespace fastopt
