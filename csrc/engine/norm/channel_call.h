// One call of a normalization whose weights belong to channels: batch, group and instance normalization.
#pragma once

#include "engine/norm/call.h"
#include "engine/norm/layout.h"

namespace fastopt {

class ChannelCall : public NormCall {
   public:
    using NormCall::NormCall;

    // An input whose channels have one mean each, over all samples.
    bool take_input(pybind11::handle input);
    // An input whose samples have a mean for each of `groups` groups of channels.
    bool take_groups(pybind11::handle input, int64_t groups);

    bool take_running(pybind11::handle mean, pybind11::handle var);
    // Two float64 numbers per channel.
    bool take_pairs(pybind11::handle tensor, double*& pairs) const;
    // The same, or three per channel where several processes share statistics.
    bool take_shared_statistics(pybind11::handle statistics);
    // Moments of other processes' batches; their shape gives the number of channels.
    bool take_gathered(pybind11::handle gathered);

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
    std::unique_ptr<double[]> moments_, sums_, partials_, coefficients_;  // not initialised

    void own_moments();
    void own_sums();
    void gather_moments();
    void gather_sums();
    void write_parameter_gradients();
    const NormKernels& kernels_of(const NormLayout& layout) const;
    bool set_by_set() const;
    void reserve_partials();
    void reserve_coefficients();
    // Runs a kernel of `layout` over `units` of each sample.
    void over(const NormLayout& layout, NormKernel kernel, Units units, Order order = Order::forwards);
    void elements(NormKernel kernel, Order order);
    void each_set(NormKernel kernel);
    void join(const NormLayout& layout, NormKernel kernel);
    void fill_coefficients();
    void stream_gradient();
    void choose_dz_buffer();
};

}  // namespace fastopt
