// One call of batch normalization: the intake of its operands, then its kernels.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "norm_layout.h"
#include "operands.h"

namespace fastopt {

class BatchNormCall {
   public:
    NormTask task{};

    BatchNormCall(const char* activation, double negative_slope, int threads);

    // Intake: false where the kernels cannot take a tensor as it is. Of absent ones nothing is taken.

    bool take_input(pybind11::handle input);
    bool take_operand(pybind11::handle tensor, Array& operand) const;
    bool take_result(pybind11::handle tensor, Array& operand) const;
    // A number per channel, of the input's type or float32; of any type where there is no input.
    bool take_per_channel(pybind11::handle tensor, Array& operand) const;
    bool take_parameters(pybind11::handle weight, pybind11::handle bias);
    bool take_running(pybind11::handle mean, pybind11::handle var);
    // Two float64 numbers per channel.
    bool take_pairs(pybind11::handle tensor, double*& pairs) const;
    // Moments of a batch that is not at hand: they tell the number of channels.
    bool take_moments(pybind11::handle moments);
    // Memory for pairs that the caller does not ask for.
    void own_pairs();

    // Running. Of an empty input everything is zero.

    // Moments, statistics and elements.
    void forward();
    // Sums and elements.
    void backward();

    void moments();
    void settle();
    void apply();
    void sums();
    void gradient();

    // The statistics to normalize with are the running ones.
    void settle_running();
    // The gradients of weight and bias, from the sums.
    void settle_gradients(const Array& grad_weight, const Array& grad_bias);

   private:
    TensorView input_;
    int threads_;
    std::unique_ptr<double[]> pairs_, partials_, coefficients_;  // not initialised

    bool take_both(pybind11::handle first, Array& one, pybind11::handle second, Array& other) const;

    bool empty() const;
    void clear(double* pairs) const;
    const NormKernels& of_layout() const;
    bool by_channel() const;
    void reserve_partials();
    void over(NormKernel kernel, Units units) const;
    void each_channel(NormKernel kernel);
    void join(NormKernel kernel) const;
    void spread();
    void stream(const Array& result, int64_t from);
    void keep();
};

}  // namespace fastopt
