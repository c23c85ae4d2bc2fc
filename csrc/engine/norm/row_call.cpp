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

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows that share sums of the gradients of weight and bias: few enough chunks to add up, enough to share out.
int64_t rows_of_chunk(int64_t rows, int64_t length) {
    return std::max({int64_t{4}, ceil_div(kChunk, length), ceil_div(rows, 64)});
}

}  // namespace

bool RowCall::take_rows(py::handle input, Kind kind, int64_t length) {
    if (!take_any_input(input) || !is_contiguous(input_) || length < 0) return false;
    if (length == 0 ? input_.numel > 0 : input_.numel % length != 0) return false;
    kind_ = kind;
    task.parameters = length;
    task.set_count = length == 0 ? 0 : input_.numel / length;
    task.count = double(length);
    task.batch = true;
    if (empty()) return true;
    task.sets = task.layout = lay_out_rows(task.set_count, length);
    task.chunk_rows = rows_of_chunk(task.set_count, length);
    return true;
}

void RowCall::forward() {
    if (on_device()) return RowDevice(task, kind_ == Kind::layer, device_).forward();
    if (empty()) return;
    widen_parameters();
    const int64_t rows = task.set_count, length = task.parameters, chunks = task.sets.chunks;
    moments_.reset(new double[static_cast<size_t>(2 * rows)]);
    partials_.reset(new double[static_cast<size_t>(2 * rows * chunks)]);
    task.moments = moments_.get();
    task.partials = partials_.get();
    stream(task.out, machine.stream_forward);
    const RowKernels& kernels_of_kind = of_kind();
    const auto over = [&](NormKernel kernel, int64_t units, int64_t elements) {
        run_released<NormTask>({{kernel, &task, units, elements}}, threads_);
    };
    if (rows % threads_ == 0 || rows >= 4 * threads_) return over(kernels_of_kind.forward, rows, length);
    const NormTable& table = *kernels().norm;
    if (task.summands[0].data != nullptr)
        over(task.input.type == DType::f64 ? table.add_f64 : table.add_f32, input_.numel, 1);
    over(kernels_of_kind.moments, rows * chunks, std::min(length, kChunk));
    kernels_of_kind.finalize(task, 0, rows);
    over(kernels_of_kind.apply, rows * ceil_div(length, kBlock), std::min<int64_t>(length, kBlock));
}

void RowCall::backward() {
    if (on_device()) return RowDevice(task, kind_ == Kind::layer, device_).backward();
    const int64_t rows = task.set_count, length = task.parameters,
                  chunks = empty() ? 0 : ceil_div(rows, task.chunk_rows);
    const bool sums = task.grad_weight.data != nullptr || task.grad_bias.data != nullptr;
    const RowKernels& kernels_of_kind = of_kind();
    if (!empty()) {
        widen_parameters();
        if (sums) {
            const size_t numbers = static_cast<size_t>(2 * chunks * length);
            partials_.reset(new double[numbers]);
            accumulators_.reset(new double[numbers]);  // of either type
            task.partials = partials_.get();
            task.accumulators = accumulators_.get();
        }
        if (task.activation != 0 && kernels().norm->costly[task.activation] && !is_half()) task.kept = task.grad_input;
        if (task.kept.data == nullptr) stream(task.grad_input, machine.stream_backward);
        run_released<NormTask>({{kernels_of_kind.backward, &task, chunks, std::min(task.chunk_rows, rows) * length}},
                               threads_);
    }
    task.chunk_rows = std::max<int64_t>(task.chunk_rows, 1);
    if (sums && length > 0)
        run_released<NormTask>({{kernels_of_kind.join_parameters, &task, length, std::max<int64_t>(chunks, 1)}},
                               threads_);
}

const RowKernels& RowCall::of_kind() const {
    const NormTable& table = *kernels().norm;
    const bool wide = task.input.type == DType::f64;
    if (kind_ == Kind::layer) return wide ? table.layer_f64 : table.layer_f32;
    return wide ? table.rms_f64 : table.rms_f32;
}

void RowCall::widen_parameters() {
    widen(task.weight, wide_[0]);
    widen(task.bias, wide_[1]);
}

void RowCall::widen(Array& parameter, std::unique_ptr<double[]>& wide) const {
    const DType type = task.input.type == DType::f64 ? DType::f64 : DType::f32;
    if (parameter.data == nullptr || parameter.type == type) return;
    wide.reset(new double[static_cast<size_t>(task.parameters)]);  // of either type
    const Array widened{wide.get(), type};
    for (int64_t i = 0; i < task.parameters; ++i) set_element(widened, i, element(parameter, i));
    parameter = widened;
}

}  // namespace fastopt
