#include "engine/norm/row_cuda.h"

#include <algorithm>

#include "engine/interop/stream.h"
#include "engine/norm/layout.h"

namespace py = pybind11;

namespace fastopt {
RowDevice::RowDevice(const NormTask& task, bool centered, int device)
    : task_(task), centered_(centered), stream_(stream_of(device)) {
    if (!sums()) return;
    // Two sums per column and flush block of rows, in the compute type.
    const int64_t rows = task_.set_count / task_.row_sets, columns = task_.parameters * task_.row_repeat;
    const int64_t flushes = ceil_div(std::min(task_.chunk_rows, rows), kFlushRows);
    const int64_t chunks = rows == 0 ? 0 : ceil_div(rows, task_.chunk_rows);
    const size_t bytes = task_.input.type == DType::f64 ? sizeof(double) : sizeof(float);
    scratch_ = allocate(device, static_cast<size_t>(2 * chunks * flushes * columns) * bytes);
    task_.accumulators = scratch_.data;
}

void RowDevice::forward() {
    if (task_.set_count == 0) return;
    const py::gil_scoped_release released;
    cuda::norm_rows(stream_, task_, centered_);
}

// The gradient of the input is one launch, those of weight and bias are two.
void RowDevice::backward() {
    const py::gil_scoped_release released;
    if (task_.set_count > 0 && task_.grad_input.data != nullptr) cuda::norm_row_gradient(stream_, task_, centered_);
    if (sums()) cuda::norm_row_columns(stream_, task_, centered_);
}

bool RowDevice::sums() const { return task_.grad_weight.data != nullptr || task_.grad_bias.data != nullptr; }

}  // namespace fastopt
