#include "engine/norm/call.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "cpu/machine.h"
#include "engine/interop/huge_pages.h"
#include "engine/interop/run_without_gil.h"
#include "engine/norm/call_cuda.h"
#include "engine/workers/dispatch.h"
#include "norm/channel.h"

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

BatchNormCall::BatchNormCall(const char* activation, double negative_slope, int threads) : threads_(threads) {
    task.activation = find_activation(activation);
    task.negative_slope = negative_slope;
}

bool BatchNormCall::take_input(py::handle input) {
    if (!take(input, input_) || input_.complex || input_.ndim < 2) return false;
    device_ = input_.device;
    task.input = array_of(input_);
    if (input_.numel > 0) task.layout = lay_out_channels(input_);
    task.layout.channels = input_.sizes[1];
    task.count = input_.numel > 0 ? double(input_.numel / input_.sizes[1]) : 0;
    return true;
}

bool BatchNormCall::take_operand(py::handle tensor, Array& operand) const {
    TensorView view;
    if (absent(tensor)) return true;
    if (!take_like(tensor, input_, view)) return false;
    operand = array_of(view);
    return true;
}

bool BatchNormCall::take_result(py::handle tensor, Array& operand) const {
    TensorView view;
    if (absent(tensor)) return true;
    if (!take_out(tensor, input_, view)) return false;
    if (!on_device()) expect_first_write(view);
    operand = array_of(view);
    return true;
}

bool BatchNormCall::take_per_channel(py::handle tensor, Array& operand) const {
    TensorView own;
    if (absent(tensor)) return true;
    if (!view(tensor.ptr(), own) || own.device != device_ || own.complex || own.ndim != 1 ||
        own.sizes[0] != task.layout.channels || !is_contiguous(own))
        return false;
    if (task.input.data != nullptr && own.type != task.input.type && own.type != DType::f32) return false;
    operand = array_of(own);
    return true;
}

// Takes two operands that are only read.
bool BatchNormCall::take_both(py::handle first, Array& one, py::handle second, Array& other) const {
    for (py::handle tensor : {first, second})
        if (!absent(tensor) && is_negated(tensor.ptr())) return false;
    return take_per_channel(first, one) && take_per_channel(second, other);
}

bool BatchNormCall::take_parameters(py::handle weight, py::handle bias) {
    return take_both(weight, task.weight, bias, task.bias);
}

bool BatchNormCall::take_running(py::handle mean, py::handle var) {
    return take_both(mean, task.running_mean, var, task.running_var);
}

bool BatchNormCall::take_doubles(py::handle tensor, int64_t rows, int64_t columns, double*& data) const {
    TensorView own;
    if (!view(tensor.ptr(), own) || own.device != device_ || own.type != DType::f64 || own.complex || own.ndim != 2 ||
        own.sizes[0] != rows || own.sizes[1] != columns || !is_contiguous(own))
        return false;
    data = static_cast<double*>(own.data);
    return true;
}

bool BatchNormCall::take_pairs(py::handle tensor, double*& pairs) const {
    return take_doubles(tensor, 2, task.layout.channels, pairs);
}

bool BatchNormCall::take_statistics(py::handle statistics) {
    if (take_pairs(statistics, task.statistics)) return true;
    if (!take_doubles(statistics, 3, task.layout.channels, task.statistics)) return false;
    task.counts = task.statistics + 2 * task.layout.channels;
    return true;
}

bool BatchNormCall::take_gathered(py::handle gathered) {
    TensorView own;
    if (!view(gathered.ptr(), own) || own.ndim != 2) return false;
    device_ = own.device;
    task.processes = own.sizes[0];
    task.layout.channels = own.sizes[1] / 2;
    double* data = nullptr;
    if (!take_doubles(gathered, task.processes, 2 * task.layout.channels + 1, data)) return false;
    task.gathered = data;
    return true;
}

void BatchNormCall::own_pairs() {
    if (on_device()) return;  // a device has other memory for them
    pairs_.reset(new double[static_cast<size_t>(2 * task.layout.channels)]);
    task.pairs = pairs_.get();
}

void BatchNormCall::forward() {
    if (on_device()) return BatchNormDevice(task, device_).forward();
    if (empty()) return clear(task.statistics);
    if (by_channel()) {
        if (task.layout.segments_per_piece == 1) stream(task.out, machine.stream_forward);
        return each_channel(of_layout().forward);
    }
    gather_moments();
    for (int64_t c = 0; c < task.layout.channels; ++c) finalize_statistics(task, c);
    apply();
}

void BatchNormCall::evaluate() {
    if (on_device()) return BatchNormDevice(task, device_).evaluate();
    for (int64_t c = 0; c < task.layout.channels; ++c) use_running(task, c);
    apply(Order::forwards);
}

void BatchNormCall::backward() {
    if (on_device()) return BatchNormDevice(task, device_).backward();
    if (empty()) return sums();
    choose_dz_buffer();
    if (by_channel()) {
        if (task.layout.segments_per_piece == 1) stream_gradient();
        each_channel(of_layout().backward);
    } else {
        gather_sums();
        gradient();
    }
    write_parameter_gradients();
}

void BatchNormCall::moments() {
    if (on_device()) return BatchNormDevice(task, device_).moments();
    if (empty()) return clear(task.pairs);
    gather_moments();
}

void BatchNormCall::gather_stats() {
    if (on_device()) return BatchNormDevice(task, device_).gather_stats();
    for (int64_t c = 0; c < task.layout.channels; ++c) fastopt::gather_stats(task, c);
}

void BatchNormCall::apply(Order order) {
    if (on_device()) return BatchNormDevice(task, device_).apply();
    if (empty()) return;
    stream(task.out, machine.stream_forward);
    elements(of_layout().apply, order);
}

void BatchNormCall::sums() {
    if (on_device()) return BatchNormDevice(task, device_).sums();
    if (empty())
        clear(task.pairs);
    else
        gather_sums();
    write_parameter_gradients();
}

void BatchNormCall::gradient() {
    if (on_device()) return BatchNormDevice(task, device_).gradient();
    if (empty()) return;
    stream_gradient();
    elements(of_layout().gradient, Order::backwards);
}

void BatchNormCall::gather_moments() {
    reserve_partials();
    over(of_layout().moments, units_of_sums(task.layout));
    join(of_layout().join_moments);
}

void BatchNormCall::gather_sums() {
    reserve_partials();
    if (!task.layout.planes) {  // the sums of columns read the coefficients
        double* const sums = task.pairs;
        task.pairs = nullptr;
        fill_coefficients();
        task.pairs = sums;
    }
    over(of_layout().sums, units_of_sums(task.layout));
    join(of_layout().join_sums);
}

void BatchNormCall::write_parameter_gradients() {
    for (int64_t c = 0; c < task.layout.channels; ++c) fastopt::write_parameter_gradients(task, c);
}

bool BatchNormCall::on_device() const { return device_ != kHost; }

bool BatchNormCall::empty() const { return input_.numel == 0; }

// The result of an empty input.
void BatchNormCall::clear(double* pairs) const { std::fill_n(pairs, 2 * task.layout.channels, 0.0); }

const NormKernels& BatchNormCall::of_layout() const {
    const NormTable& table = *kernels().norm;
    const bool wide = task.input.type == DType::f64;
    if (!task.layout.planes) return wide ? table.columns_f64 : table.columns_f32;
    return wide ? table.planes_f64 : table.planes_f32;
}

// Whether a worker takes all of a channel at once. Not if that leaves threads without work.
bool BatchNormCall::by_channel() const {
    const int64_t channels = task.layout.channels;
    return task.layout.by_channel && (channels % threads_ == 0 || channels >= 4 * threads_);
}

void BatchNormCall::reserve_partials() {
    const NormLayout& l = task.layout;
    partials_.reset(new double[static_cast<size_t>(2 * l.chunks * (l.planes ? l.channels : l.columns))]);
    task.partials = partials_.get();
}

void BatchNormCall::over(NormKernel kernel, Units units) const {
    run_released<NormTask>({{kernel, &task, units.count, units.elements}}, threads_);
}

void BatchNormCall::elements(NormKernel kernel, Order order) {
    fill_coefficients();
    run_released<NormTask>({{kernel, &task, task.layout.total, 1}}, threads_, order);
}

void BatchNormCall::each_channel(NormKernel kernel) {
    reserve_partials();
    over(kernel, {task.layout.channels, task.layout.total / task.layout.channels});
}

void BatchNormCall::join(NormKernel kernel) const {
    const NormLayout& l = task.layout;
    const int64_t gathered = l.planes ? l.chunks : l.chunks * l.columns / l.channels;
    over(kernel, {l.channels, std::max<int64_t>(gathered, 1)});
}

void BatchNormCall::fill_coefficients() {
    if (!coefficients_) coefficients_.reset(new double[static_cast<size_t>(5 * task.layout.repeat)]);  // of either type
    task.coefficients = coefficients_.get();
    of_layout().fill_coefficients(task, 0, task.layout.channels);
}

// Streams results of at least `from` bytes past the caches, but not into fresh memory, whose new pages are cached.
void BatchNormCall::stream(const Array& result, int64_t from) {
    const int64_t bytes = result.data == nullptr ? 0 : task.layout.total * element_size(result.type);
    task.streams = bytes >= from && bytes < kFreshBytes;
}

// Does not stream where the gradient of z is stored, because it is read again.
void BatchNormCall::stream_gradient() {
    if (task.kept.data == nullptr || task.kept.data != task.grad_input.data)
        stream(task.grad_input, machine.stream_backward);
}

// Chooses where to store the gradient of z, which is needed twice. A half type would round it.
void BatchNormCall::choose_dz_buffer() {
    const NormTable& table = *kernels().norm;
    const bool half = task.input.type != DType::f32 && task.input.type != DType::f64;
    if (task.activation == 0 || half) return;
    if (task.grad_residual.data != nullptr)
        task.kept = task.grad_residual;
    else if (table.costly[task.activation])
        task.kept = task.grad_input;
}

}  // namespace fastopt
