// Tensors as operands of a kernel: what Python passed, where a kernel can take it as it is.
#pragma once

#include "engine/interop/tensor.h"

namespace fastopt {

// What Python passed in place of a tensor that there is not.
inline bool absent(pybind11::handle tensor) { return tensor.is_none(); }

// Dense, and with its values in memory: the CPU's or a device's.
bool take(pybind11::handle tensor, TensorView& out);

// The same, of the device, type and layout of `like`.
bool take_like(pybind11::handle tensor, const TensorView& like, TensorView& out);

// A result: one of the operands, or a fresh tensor, which nobody negates.
bool take_out(pybind11::handle tensor, const TensorView& like, TensorView& out);

inline Array array_of(const TensorView& tensor) { return {tensor.data, tensor.type}; }

// Tells the system about fresh memory.
void expect_first_write(const TensorView& result);

}  // namespace fastopt
