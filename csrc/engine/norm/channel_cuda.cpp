#include "engine/norm/channel_cuda.h"

#include <algorithm>

#include "engine/interop/stream.h"

namespace py = pybind11;

namespace fastopt {

namespace {

// Numbers of partial results; of one sample, in columns.
int64_t partials_of(const NormLayout& l) {
    return 2 * (l.planes ? l.channels * l.chunks : l.columns * l.chunks + l.rest);
}

int64_t all_partials_of(const NormLayout& l, const NormTask& task) {
    return partials_of(l) * (l.planes ? 1 : task.samples);
}

}  // namespace

ChannelDevice::ChannelDevice(const NormTask& task, int device) : task_(task), stream_(stream_of(device)) {
    const int64_t partials = std::max(all_partials_of(task_.layout, task_), all_partials_of(task_.sets, task_));
    const int64_t pairs = 2 * task_.channel_count, coefficients = 5 * task_.channel_count;  // of either type
    task_.sample_partials = partials_of(task_.layout);
    scratch_ = allocate(device, static_cast<size_t>(partials + pairs + coefficients) * sizeof(double));
    task_.partials = static_cast<double*>(scratch_.data);
    if (task_.moments == nullptr) task_.moments = task_.partials + partials;
    if (task_.sums == nullptr) task_.sums = task_.partials + partials;
    task_.coefficients = task_.partials + partials + pairs;
}

// Training launches three kernels, evaluation two. A sum of two operands takes one more, and in the backward pass so do
// the projection of groups, and the gradients of parameters that samples share.

void ChannelDevice::forward() {
    if (empty()) return clear(task_.statistics, task_.set_count);
    const py::gil_scoped_release released;
    if (task_.summands[0].data != nullptr) cuda::norm_add(stream_, task_, task_.samples * task_.layout.total);
    cuda::norm_moments(stream_, task_);
    cuda::norm_apply(stream_, task_);
}

void ChannelDevice::evaluate() {
    const py::gil_scoped_release released;
    cuda::norm_finalize(stream_, task_, cuda::NormSource::running);
    if (!empty()) cuda::norm_apply(stream_, task_);
}

void ChannelDevice::backward() {
    if (empty() || (task_.grad_input.data == nullptr && task_.grad_residual.data == nullptr)) return sums();
    choose_dz_buffer();
    const py::gil_scoped_release released;
    cuda::norm_sums(stream_, task_);
    cuda::norm_gradient(stream_, task_);
}

void ChannelDevice::moments() {
    if (empty()) return clear(task_.moments, task_.set_count);
    task_.coefficients = nullptr;
    const py::gil_scoped_release released;
    cuda::norm_moments(stream_, task_);
}

void ChannelDevice::gather_stats() {
    task_.coefficients = nullptr;
    const py::gil_scoped_release released;
    cuda::norm_finalize(stream_, task_, cuda::NormSource::gathered);
}

void ChannelDevice::apply() {
    if (empty()) return;
    const py::gil_scoped_release released;
    cuda::norm_finalize(stream_, task_, cuda::NormSource::statistics);
    cuda::norm_apply(stream_, task_);
}

void ChannelDevice::sums() {
    if (empty()) return clear(task_.sums, task_.channel_count);
    task_.coefficients = nullptr;
    const py::gil_scoped_release released;
    cuda::norm_sums(stream_, task_);
}

void ChannelDevice::gradient() {
    if (empty()) return;
    const py::gil_scoped_release released;
    cuda::norm_finalize(stream_, task_, cuda::NormSource::statistics);
    cuda::norm_gradient(stream_, task_);
}

bool ChannelDevice::empty() const { return task_.layout.total == 0; }

// The result of an empty input.
void ChannelDevice::clear(double* pairs, int64_t count) {
    task_.sums = pairs;
    if (task_.channel_count != count) task_.parameters = task_.channel_count = count;
    task_.coefficients = nullptr;
    const py::gil_scoped_release released;
    cuda::norm_finalize(stream_, task_, cuda::NormSource::nothing);
}

// The gradient of z is needed twice. If it is a result, storing it saves reading the residual again; otherwise
// computing it twice moves fewer bytes. A half type would round it.
void ChannelDevice::choose_dz_buffer() {
    const bool half = task_.input.type != DType::f32 && task_.input.type != DType::f64;
    if (task_.activation != 0 && !half && task_.grad_residual.data != nullptr) task_.kept = task_.grad_residual;
}

}  // namespace fastopt
