// One call of batch normalization: takes its operands, then runs its kernels.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "engine/interop/operands.h"
#include "engine/norm/layout.h"
#include "engine/workers/run.h"

namespace fastopt {

class BatchNormCall {
   public:
    NormTask task{};

    BatchNormCall(const char* activation, double negative_slope, int threads);

    // Intake: returns false where the kernels cannot take a tensor as it is. An absent tensor is skipped.

    bool take_input(pybind11::handle input);
    bool take_operand(pybind11::handle tensor, Array& operand) const;
    bool take_result(pybind11::handle tensor, Array& operand) const;
    // One number per channel, of the input's type or float32; of any type where there is no input.
    bool take_per_channel(pybind11::handle tensor, Array& operand) const;
    bool take_parameters(pybind11::handle weight, pybind11::handle bias);
    bool take_running(pybind11::handle mean, pybind11::handle var);
    // Two float64 numbers per channel.
    bool take_pairs(pybind11::handle tensor, double*& pairs) const;
    // The same, or three per channel where several processes share statistics.
    bool take_statistics(pybind11::handle statistics);
    // Moments of other processes' batches; their shape gives the number of channels.
    bool take_gathered(pybind11::handle gathered);
    // Allocates memory for pairs that the caller does not ask for.
    void own_pairs();

    // Running. All results of an empty input are zero.

    // Computes moments, statistics and elements.
    void forward();
    // Computes elements from the running statistics.
    void evaluate();
    // Computes sums and elements.
    void backward();

    void moments();
    // Computes statistics from the moments of several processes.
    void gather_stats();
    // Backwards after sums, which have just read the input's end: the caches still hold it.
    void apply(Order order = Order::backwards);
    // Also computes the gradients of weight and bias.
    void sums();
    void gradient();

   private:
    TensorView input_;
    int device_ = kHost;  // of all tensors
    int threads_;
    std::unique_ptr<double[]> pairs_, partials_, coefficients_;  // not initialised

    bool take_both(pybind11::handle first, Array& one, pybind11::handle second, Array& other) const;

    bool take_doubles(pybind11::handle tensor, int64_t rows, int64_t columns, double*& data) const;

    bool empty() const;
    bool on_device() const;
    void gather_moments();
    void gather_sums();
    void write_parameter_gradients();
    void clear(double* pairs) const;
    const NormKernels& of_layout() const;
    bool by_channel() const;
    void reserve_partials();
    void over(NormKernel kernel, Units units) const;
    void elements(NormKernel kernel, Order order);
    void each_channel(NormKernel kernel);
    void join(NormKernel kernel) const;
    void fill_coefficients();
    void stream(const Array& result, int64_t from);
    void stream_gradient();
    void choose_dz_buffer();
};

}  // namespace fastopt
