// Batch normalization as Python calls it. A function returns false, having written nothing, if the kernels cannot take
// the tensors as they are; the caller then makes copies that they can take.
//
// In all functions, `input` has the shape (N, C, ...); residual, results and gradients have its layout and type.
// weight, bias and running statistics have C elements of that type or float32, or are None. `statistics` are float64,
// (2, C): mean and 1 / sqrt(variance + eps). z is the normalized, scaled and shifted input plus the residual;
// `activation` is applied to z.
#pragma once

#include <pybind11/pybind11.h>

namespace fastopt {

// The names that `activation` may have.
pybind11::tuple activations();

// out = activation(z). In training, `statistics` are the batch's, and the running statistics are moved towards them;
// otherwise they are the running statistics.
bool batch_norm(pybind11::handle out, pybind11::handle input, pybind11::handle residual, pybind11::handle weight,
                pybind11::handle bias, pybind11::handle running_mean, pybind11::handle running_var,
                pybind11::handle statistics, bool training, double momentum, double eps, const char* activation,
                double negative_slope, int threads);

// Computes the gradients that are wanted; the others are None. Gradients of weight and bias have their types. `batch`:
// the statistics depend on the input, and so contribute to its gradient.
bool batch_norm_backward(pybind11::handle grad_input, pybind11::handle grad_residual, pybind11::handle grad_weight,
                         pybind11::handle grad_bias, pybind11::handle grad, pybind11::handle input,
                         pybind11::handle residual, pybind11::handle weight, pybind11::handle bias,
                         pybind11::handle statistics, bool batch, const char* activation, double negative_slope,
                         int threads);

// The parts of both functions, between which processes exchange their sums.

// moments (float64, (2, C)): mean and sum of squared deviations.
bool batch_norm_moments(pybind11::handle moments, pybind11::handle input, int threads);

// Computes statistics, whose third row is the number of elements per channel, and running statistics from `gathered`
// (float64, (processes, 2 * C + 1)): the moments and the number of elements of each process.
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

// The gradients of input and residual from the sums of all processes and statistics with three rows. Without sums, the
// statistics are constants.
bool batch_norm_gradient(pybind11::handle grad_input, pybind11::handle grad_residual, pybind11::handle grad,
                         pybind11::handle input, pybind11::handle residual, pybind11::handle weight,
                         pybind11::handle bias, pybind11::handle statistics, pybind11::handle sums,
                         const char* activation, double negative_slope, int threads);

}  // namespace fastopt
