#include "engine/norm/call_cuda.h"

#include "engine/interop/stream.h"

namespace py = pybind11;

namespace fastopt {

BatchNormDevice::BatchNormDevice(const NormTask& task, int device) : task_(task), stream_(stream_of(device)) {
    const NormLayout& l = task_.layout;
    const int64_t partials = 2 * (l.planes ? l.channels * l.chunks : l.columns * l.chunks + l.rest);
    const int64_t pairs = task_.pairs == nullptr ? 2 * l.channels : 0, coefficients = 5 * l.channels;  // of either type
    scratch_ = allocate(device, static_cast<size_t>(partials + pairs + coefficients) * sizeof(double));
    task_.partials = static_cast<double*>(scratch_.data);
    if (pairs > 0) task_.pairs = task_.partials + partials;
    task_.coefficients = task_.partials + partials + pairs;
}

// Training launches three kernels, evaluation two.

void BatchNormDevice::forward() {
    if (empty()) return clear(task_.statistics);
    const py::gil_scoped_release released;
    cuda::norm_moments(stream_, task_);
    cuda::norm_apply(stream_, task_);
}

void BatchNormDevice::evaluate() {
    const py::gil_scoped_release released;
    cuda::norm_finalize(stream_, task_, cuda::NormSource::running);
    if (!empty()) cuda::norm_apply(stream_, task_);
}

void BatchNormDevice::backward() {
    if (empty()) return clear(task_.pairs);
    choose_dz_buffer();
    const py::gil_scoped_release released;
    cuda::norm_sums(stream_, task_);
    cuda::norm_gradient(stream_, task_);
}

void BatchNormDevice::moments() {
    if (empty()) return clear(task_.pairs);
    task_.coefficients = nullptr;
    const py::gil_scoped_release released;
    cuda::norm_moments(stream_, task_);
}

void BatchNormDevice::gather_stats() {
    task_.coefficients = nullptr;
    const py::gil_scoped_release released;
    cuda::norm_finalize(stream_, task_, cuda::NormSource::gathered);
}

void BatchNormDevice::apply() {
    if (empty()) return;
    const py::gil_scoped_release released;
    cuda::norm_finalize(stream_, task_, cuda::NormSource::statistics);
    cuda::norm_apply(stream_, task_);
}

void BatchNormDevice::sums() {
    if (empty()) return clear(task_.pairs);
    task_.coefficients = nullptr;
    const py::gil_scoped_release released;
    cuda::norm_sums(stream_, task_);
}

void BatchNormDevice::gradient() {
    if (empty()) return;
    const py::gil_scoped_release released;
    cuda::norm_finalize(stream_, task_, cuda::NormSource::statistics);
    cuda::norm_gradient(stream_, task_);
}

bool BatchNormDevice::empty() const { return task_.layout.total == 0; }

// The result of an empty input.
void BatchNormDevice::clear(double* pairs) {
    task_.pairs = pairs;
    task_.coefficients = nullptr;
    const py::gil_scoped_release released;
    cuda::norm_finalize(stream_, task_, cuda::NormSource::nothing);
}

// The gradient of z is needed twice. If it is a result, storing it saves reading the residual again; otherwise
// computing it twice moves fewer bytes. A half type would round it.
void BatchNormDevice::choose_dz_buffer() {
    const bool half = task_.input.type != DType::f32 && task_.input.type != DType::f64;
    if (task_.activation != 0 && !half && task_.grad_residual.data != nullptr) task_.kept = task_.grad_residual;
}

}  // namespace fastopt
