#include "engine/norm/row_call.h"

#include <algorithm>

#include "cpu/machine.h"
#include "engine/interop/run_without_gil.h"
#include "engine/norm/layout.h"
#include "engine/norm/row_cuda.h"
#include "engine/workers/dispatch.h"
#include "math/element.h"

namespace py = pybind11;

namespace fastopt {
namespace {

// Rows that share sums of the gradients of weight and bias: few enough chunks to add up, enough to share out.
int64_t rows_of_chunk(int64_t rows, int64_t length) {
    return std::max({int64_t{4}, ceil_div(kChunk, length), ceil_div(rows, 64)});
}

// An absent parameter is 1. bfloat16, the usual half type of weights, has a loop that compilers vectorize.
template <class T>
void repeat(const Array& parameter, int64_t count, int64_t times, T* to) {
    const auto fill = [=](auto value_of) {
        if (times == 1)
            for (int64_t c = 0; c < count; ++c) to[c] = T(value_of(c));
        else
            for (int64_t c = 0; c < count; ++c) std::fill_n(to + c * times, times, T(value_of(c)));
    };
    const auto* const halves = static_cast<const uint16_t*>(parameter.data);
    if (halves == nullptr)
        fill([](int64_t) { return 1; });
    else if (parameter.type == DType::bf16)
        fill([halves](int64_t c) { return BFloat16::load(halves[c]); });
    else
        fill([parameter](int64_t c) { return element(parameter, c); });
}

}  // namespace

bool RowCall::take_rows(py::handle input, Kind kind, int64_t length) {
    if (!take_any_input(input) || !is_contiguous(input_) || length < 0) return false;
    if (length == 0 ? input_.numel > 0 : input_.numel % length != 0) return false;
    kind_ = kind;
    parameters_are_vectors_ = false;  // they have the shape of a row
    task.parameters = length;
    task.row_sets = task.row_repeat = 1;
    lay_out(length == 0 ? 0 : input_.numel / length, length);
    return true;
}

bool RowCall::take_groups(py::handle input, int64_t groups) {
    if (!take_any_input(input) || empty() || input_.ndim < 2 || groups < 1 || input_.sizes[1] % groups != 0)
        return false;
    const int64_t samples = input_.sizes[0], channels = input_.sizes[1], inner = input_.numel / (samples * channels);
    if (inner >= kPlane || !is_contiguous(input_)) return false;
    kind_ = Kind::layer;
    task.parameters = channels;
    task.row_sets = groups;
    task.row_repeat = inner;
    lay_out(samples * groups, channels / groups * inner);
    return true;
}

void RowCall::lay_out(int64_t sets, int64_t length) {
    task.batch = true;
    task.set_count = sets;
    task.count = double(length);
    if (empty()) return;
    task.sets = task.layout = lay_out_rows(sets, length);
    task.chunk_rows = rows_of_chunk(sets / task.row_sets, length * task.row_sets);
}

void RowCall::forward() {
    if (on_device()) return RowDevice(task, kind_ == Kind::layer, device_).forward();
    if (empty()) return;
    spread_parameters();
    const int64_t sets = task.set_count, length = task.sets.inner, chunks = task.sets.chunks;
    moments_.reset(new double[static_cast<size_t>(2 * sets)]);
    partials_.reset(new double[static_cast<size_t>(2 * sets * chunks)]);
    task.moments = moments_.get();
    task.partials = partials_.get();
    stream(task.out, machine.stream_forward);
    const RowKernels& kernels_of_kind = of_kind();
    if (keeps_busy(sets)) return over(kernels_of_kind.forward, sets, length);
    add_summands();
    over(kernels_of_kind.moments, sets * chunks, std::min(length, kChunk));
    kernels_of_kind.finalize(task, 0, sets);
    over(kernels_of_kind.apply, sets * ceil_div(length, kBlock), std::min<int64_t>(length, kBlock));
}

void RowCall::backward() {
    if (on_device()) return RowDevice(task, kind_ == Kind::layer, device_).backward();
    const bool sums = task.grad_weight.data != nullptr || task.grad_bias.data != nullptr;
    const int64_t rows = empty() ? 0 : task.set_count / task.row_sets, columns = task.parameters * task.row_repeat;
    task.chunk_rows = std::max<int64_t>(task.chunk_rows, 1);
    const int64_t chunks = ceil_div(rows, task.chunk_rows);
    if (sums) {
        const int64_t numbers = 2 * chunks * columns;
        partials_.reset(new double[static_cast<size_t>(numbers)]);
        accumulators_.reset(new double[static_cast<size_t>(task.input.type == DType::f64 ? numbers : numbers / 2)]);
        task.partials = partials_.get();
        task.accumulators = accumulators_.get();
    }
    if (rows > 0) {
        spread_parameters();
        if (task.activation != 0 && kernels().norm->costly[task.activation] && !is_half()) task.kept = task.grad_input;
        if (task.kept.data == nullptr) stream(task.grad_input, machine.stream_backward);
        over(of_kind().backward, chunks, std::min(task.chunk_rows, rows) * columns);
    }
    if (sums) over(of_kind().join_parameters, task.parameters, std::max<int64_t>(chunks * task.row_repeat, 1));
}

void RowCall::over(NormKernel kernel, int64_t units, int64_t elements) const {
    run_released<NormTask>({{kernel, &task, units, elements}}, threads_);
}

const RowKernels& RowCall::of_kind() const {
    const NormTable& table = *kernels().norm;
    const bool wide = task.input.type == DType::f64;
    if (kind_ == Kind::layer) return wide ? table.layer_f64 : table.layer_f32;
    return wide ? table.rms_f64 : table.rms_f32;
}

void RowCall::spread_parameters() {
    const bool has_bias = task.bias.data != nullptr;
    if (task.weight.data != nullptr || has_bias)
        spread(task.weight, wide_[0]);  // the loops have no bias without weight
    if (has_bias) spread(task.bias, wide_[1]);
}

void RowCall::spread(Array& parameter, std::unique_ptr<double[]>& wide) const {
    const DType type = task.input.type == DType::f64 ? DType::f64 : DType::f32;
    if (parameter.data != nullptr && parameter.type == type && task.row_repeat == 1) return;
    wide.reset(new double[static_cast<size_t>(task.parameters * task.row_repeat)]);  // of either type
    if (type == DType::f64)
        repeat(parameter, task.parameters, task.row_repeat, wide.get());
    else
        repeat(parameter, task.parameters, task.row_repeat, reinterpret_cast<float*>(wide.get()));
    parameter = {wide.get(), type};
}

}  // namespace fastopt
