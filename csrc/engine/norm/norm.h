// Normalization of rows (layer, RMS) and of groups of channels (group, instance) as Python calls it. A function returns
// false, having written nothing, if the kernels cannot take the tensors as they are; the caller then makes copies that
// they can take.
//
// `kind` is "layer", "rms", "rms_rounded" (x * rstd is rounded to a half type before the weight is applied), where
// `size` is the length of a row of the contiguous input; or "group", where it is the number of groups, and the input
// has the shape (N, C, ...). weight and bias have the input's type or float32, or are None. `statistics` are float64,
// (2, sets): mean and 1 / sqrt(variance + eps).
#pragma once

#include <pybind11/pybind11.h>

namespace fastopt {

// out = activation(normalized(input) * weight + bias). With a residual, sum = input + residual, and that is normalized.
bool norm(pybind11::handle out, pybind11::handle sum, pybind11::handle input, pybind11::handle residual,
          pybind11::handle weight, pybind11::handle bias, pybind11::handle statistics, const char* kind, int64_t size,
          double eps, const char* activation, double negative_slope, int threads);

// Computes the gradients that are wanted; the others are None. `input` is what was normalized. `grad_sum`, if any, is
// added to the gradient of the input.
bool norm_backward(pybind11::handle grad_input, pybind11::handle grad_weight, pybind11::handle grad_bias,
                   pybind11::handle grad, pybind11::handle grad_sum, pybind11::handle input, pybind11::handle weight,
                   pybind11::handle bias, pybind11::handle statistics, const char* kind, int64_t size,
                   const char* activation, double negative_slope, int threads);

}  // namespace fastopt
