// One call of a normalization of rows, whose elements have a weight each: layer and RMS normalization.
#pragma once

#include "engine/norm/call.h"

namespace fastopt {

class RowCall : public NormCall {
   public:
    using NormCall::NormCall;

    enum class Kind { layer, rms };

    // A contiguous input whose rows have `length` elements.
    bool take_rows(pybind11::handle input, Kind kind, int64_t length);

    void forward();
    void backward();

   private:
    Kind kind_ = Kind::layer;
    std::unique_ptr<double[]> moments_, partials_, accumulators_;  // not initialised
    std::unique_ptr<double[]> wide_[2];                            // weight and bias in the compute type

    const RowKernels& of_kind() const;
    void widen_parameters();
    void widen(Array& parameter, std::unique_ptr<double[]>& wide) const;
};

}  // namespace fastopt
