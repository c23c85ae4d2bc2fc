#include "engine/norm/call.h"

#include <cstring>
#include <string>

#include "engine/interop/huge_pages.h"
#include "engine/interop/run_without_gil.h"
#include "engine/workers/dispatch.h"

namespace py = pybind11;

namespace fastopt {
namespace {

int find_activation(const char* name) {
    const NormTable& table = *kernels().norm;
    for (int i = 0; i < table.activation_count; ++i)
        if (std::strcmp(table.activations[i], name) == 0) return i;
    throw py::key_error(std::string("no activation '") + name + "'");
}

}  // namespace

NormCall::NormCall(const char* activation, double negative_slope, int threads) : threads_(threads) {
    task.activation = find_activation(activation);
    task.negative_slope = negative_slope;
    task.samples = task.group = 1;
}

bool NormCall::take_any_input(py::handle input) {
    if (!take(input, input_) || input_.complex) return false;
    device_ = input_.device;
    task.input = array_of(input_);
    return true;
}

bool NormCall::take_operand(py::handle tensor, Array& operand) const {
    TensorView view;
    if (absent(tensor)) return true;
    if (!take_like(tensor, input_, view)) return false;
    operand = array_of(view);
    return true;
}

bool NormCall::take_result(py::handle tensor, Array& operand) const {
    TensorView view;
    if (absent(tensor)) return true;
    if (!take_out(tensor, input_, view)) return false;
    if (!on_device()) expect_first_write(view);
    operand = array_of(view);
    return true;
}

bool NormCall::take_sum(py::handle sum, py::handle first, py::handle second) {
    task.summands[0] = task.summands[1] = {nullptr, task.input.type};
    if (absent(second)) return absent(sum);
    return take_operand(first, task.summands[0]) && take_operand(second, task.summands[1]) && !absent(sum) &&
           take_result(sum, task.input);
}

bool NormCall::take_per_parameter(py::handle tensor, Array& operand) const {
    TensorView own;
    if (absent(tensor)) return true;
    if (!view(tensor.ptr(), own) || own.device != device_ || own.complex || own.numel != task.parameters ||
        (parameters_are_vectors_ && own.ndim != 1) || !is_contiguous(own))
        return false;
    if (task.input.data != nullptr && own.type != task.input.type && own.type != DType::f32) return false;
    operand = array_of(own);
    return true;
}

bool NormCall::take_both(py::handle first, Array& one, py::handle second, Array& other) const {
    for (py::handle tensor : {first, second})
        if (!absent(tensor) && is_negated(tensor.ptr())) return false;
    return take_per_parameter(first, one) && take_per_parameter(second, other);
}

bool NormCall::take_parameters(py::handle weight, py::handle bias) {
    return take_both(weight, task.weight, bias, task.bias);
}

bool NormCall::take_doubles(py::handle tensor, int64_t rows, int64_t columns, double*& data) const {
    TensorView own;
    if (!view(tensor.ptr(), own) || own.device != device_ || own.type != DType::f64 || own.complex || own.ndim != 2 ||
        own.sizes[0] != rows || own.sizes[1] != columns || !is_contiguous(own))
        return false;
    data = static_cast<double*>(own.data);
    return true;
}

bool NormCall::take_statistics(py::handle statistics) {
    return take_doubles(statistics, 2, task.set_count, task.statistics);
}

void NormCall::add_summands() {
    if (task.summands[0].data == nullptr) return;
    const NormTable& table = *kernels().norm;
    const NormKernel kernel = task.input.type == DType::f64 ? table.add_f64 : table.add_f32;
    run_released<NormTask>({{kernel, &task, input_.numel, 1}}, threads_);
}

void NormCall::stream(const Array& result, int64_t from) {
    const int64_t bytes = result.data == nullptr ? 0 : input_.numel * element_size(result.type);
    task.streams = bytes >= from && bytes < kFreshBytes;
}

}  // namespace fastopt
