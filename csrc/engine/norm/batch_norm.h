// Batch normalization as Python calls it. Tensors that the kernels cannot take as they are make a function return
// false, and nothing has been written then; the caller brings them into shape.
//
// Common to all: `input` has the shape (N, C, ...), and residual, results and gradients its layout and type. weight,
// bias and running statistics have C elements, of that type or float32; None where there are none. `statistics` are
// float64, (2, C): mean and 1 / sqrt(variance + eps). z is the normalized, scaled and shifted input plus the residual,
// and `activation` what is applied to it.
#pragma once

#include <pybind11/pybind11.h>

namespace fastopt {

// The names that `activation` may have.
pybind11::tuple activations();

// out = activation(z). In training, `statistics` are those of the batch, which the running ones take a share of;
// otherwise they are the running ones.
bool batch_norm(pybind11::handle out, pybind11::handle input, pybind11::handle residual, pybind11::handle weight,
                pybind11::handle bias, pybind11::handle running_mean, pybind11::handle running_var,
                pybind11::handle statistics, bool training, double momentum, double eps, const char* activation,
                double negative_slope, int threads);

// The gradients that are wanted, the others None: those of weight and bias of their type. `batch`: the statistics are
// those of the input, and so have a gradient.
bool batch_norm_backward(pybind11::handle grad_input, pybind11::handle grad_residual, pybind11::handle grad_weight,
                         pybind11::handle grad_bias, pybind11::handle grad, pybind11::handle input,
                         pybind11::handle residual, pybind11::handle weight, pybind11::handle bias,
                         pybind11::handle statistics, bool batch, const char* activation, double negative_slope,
                         int threads);

// The parts of both, between which processes tell each other their sums.

// moments (float64, (2, C)): mean and sum of squared deviations.
bool batch_norm_moments(pybind11::handle moments, pybind11::handle input, int threads);

// statistics, with the number of elements per channel as their third row, and running statistics, from what processes
// have `gathered` (float64, (processes, 2 * C + 1)): moments and number of elements of each.
bool batch_norm_gather_stats(pybind11::handle statistics, pybind11::handle gathered, pybind11::handle running_mean,
                             pybind11::handle running_var, double momentum, double eps);

// out = activation(z)
bool batch_norm_apply(pybind11::handle out, pybind11::handle input, pybind11::handle residual, pybind11::handle weight,
                      pybind11::handle bias, pybind11::handle statistics, const char* activation, double negative_slope,
                      int threads);

// sums (float64, (2, C)): of the gradient of z, and of its products with input - mean.
bool batch_norm_sums(pybind11::handle sums, pybind11::handle grad, pybind11::handle input, pybind11::handle residual,
                     pybind11::handle weight, pybind11::handle bias, pybind11::handle statistics,
                     const char* activation, double negative_slope, int threads);

// The gradients of input and residual, from the sums of all processes and statistics of three rows; without sums, of
// fixed statistics.
bool batch_norm_gradient(pybind11::handle grad_input, pybind11::handle grad_residual, pybind11::handle grad,
                         pybind11::handle input, pybind11::handle residual, pybind11::handle weight,
                         pybind11::handle bias, pybind11::handle statistics, pybind11::handle sums,
                         const char* activation, double negative_slope, int threads);

}  // namespace fastopt
