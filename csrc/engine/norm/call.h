// One call of a normalization: takes its operands.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "engine/interop/operands.h"
#include "engine/workers/run.h"
#include "norm/task.h"

namespace fastopt {

class NormCall {
   public:
    NormTask task{};

    NormCall(const char* activation, double negative_slope, int threads);

    // Intake: returns false where the kernels cannot take a tensor as it is. An absent tensor is skipped.

    bool take_operand(pybind11::handle tensor, Array& operand) const;
    bool take_result(pybind11::handle tensor, Array& operand) const;
    // One number for each of the parameters, of the input's type or float32; of any type where there is no input.
    bool take_per_parameter(pybind11::handle tensor, Array& operand) const;
    bool take_parameters(pybind11::handle weight, pybind11::handle bias);
    // Two float64 numbers per set.
    bool take_statistics(pybind11::handle statistics);
    // The input as the sum of `first` and `second`, which the kernels write to `sum`; or `first` where there is no
    // `second`.
    bool take_sum(pybind11::handle sum, pybind11::handle first, pybind11::handle second);

   protected:
    TensorView input_{};
    int device_ = kHost;  // of all tensors
    int threads_;
    bool parameters_are_vectors_ = true;

    // The input, whose shape gives the layout.
    bool take_any_input(pybind11::handle input);
    // Takes two operands that are only read.
    bool take_both(pybind11::handle first, Array& one, pybind11::handle second, Array& other) const;
    bool take_doubles(pybind11::handle tensor, int64_t rows, int64_t columns, double*& data) const;

    bool on_device() const { return device_ != kHost; }
    bool empty() const { return input_.numel == 0; }
    bool is_half() const { return task.input.type != DType::f32 && task.input.type != DType::f64; }
    // Whether so many units, taken by one worker each, leave no thread without work.
    bool keeps_busy(int64_t units) const { return units % threads_ == 0 || units >= 4 * threads_; }
    // Writes the sum that is normalized, if the input is one.
    void add_summands();
    // Streams results of at least `from` bytes past the caches, but not into fresh memory, whose new pages are cached.
    void stream(const Array& result, int64_t from);
};

}  // namespace fastopt
