// One call of a normalization of rows, whose elements have a weight each: layer and RMS normalization, and group
// normalization of short channels.
#pragma once

#include "engine/norm/call.h"

namespace fastopt {

class RowCall : public NormCall {
   public:
    using NormCall::NormCall;

    enum class Kind { layer, rms };

    // A contiguous input whose rows have `length` elements.
    bool take_rows(pybind11::handle input, Kind kind, int64_t length);

    // An input (N, C, ...) whose samples have statistics for `groups` groups of channels. Returns false unless samples
    // are contiguous, and channels so short that elements with weights of their own are faster than a look at each
    // channel.
    bool take_groups(pybind11::handle input, int64_t groups);

    void forward();
    void backward();

   private:
    Kind kind_ = Kind::layer;
    std::unique_ptr<double[]> moments_, partials_, accumulators_;  // not initialised
    std::unique_ptr<double[]> wide_[2];  // weight and bias of each element, in the compute type

    const RowKernels& of_kind() const;
    void over(NormKernel kernel, int64_t units, int64_t elements) const;
    void lay_out(int64_t sets, int64_t length);
    void spread_parameters();
    void spread(Array& parameter, std::unique_ptr<double[]>& wide) const;
};

}  // namespace fastopt
