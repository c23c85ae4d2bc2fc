#include "engine/vectors/call.h"

#include <stdexcept>

#include "engine/interop/run_without_gil.h"
#include "engine/workers/dispatch.h"

namespace py = pybind11;

namespace fastopt {

VectorCall::VectorCall(py::handle like, int threads) : threads_(threads) {
    if (!take(like, like_) || !is_contiguous(like_) || like_.complex ||
        (like_.type != DType::f32 && like_.type != DType::f64))
        throw std::runtime_error("a vector has to be a contiguous float32 or float64 tensor");
    task.type = like_.type;
    task.aligned = true;
    task.n = like_.numel;
    task.chunk = task.n <= kShortVector ? kShortChunk : kVectorChunk;
    task.chunks = (task.n + task.chunk - 1) / task.chunk;
}

void* VectorCall::vector(py::handle tensor) {
    if (absent(tensor)) return nullptr;
    TensorView v;
    if (!take(tensor, v) || !is_contiguous(v) || v.complex || v.type != like_.type || v.numel != like_.numel ||
        v.device != like_.device)
        throw std::runtime_error("vectors of one call have to be alike");
    task.aligned &= reinterpret_cast<uintptr_t>(v.data) % kVectorAlignment == 0;
    return v.data;
}

double* VectorCall::numbers(py::handle tensor, int64_t count) const {
    TensorView v;
    if (!take(tensor, v) || !is_contiguous(v) || v.complex || v.type != DType::f64 || v.numel < count ||
        v.device != like_.device)
        throw std::runtime_error("sums and coefficients have to be contiguous float64 tensors with room for all");
    return static_cast<double*>(v.data);
}

int64_t VectorCall::take_segments(const py::list& tensors, const py::list& weights, const py::list& numels) {
    const size_t count = tensors.size();
    if (weights.size() != count || numels.size() != count)
        throw std::runtime_error("each tensor has a weight and a number of elements");
    segments_.reserve(count);
    int64_t first = 0;
    for (size_t i = 0; i < count; ++i) {
        const auto numel = numels[i].cast<int64_t>();
        Segment segment{{nullptr, DType::f32}, first, weights[i].cast<double>()};
        if (!absent(tensors[i])) {
            TensorView v;
            if (!take(tensors[i], v) || !is_contiguous(v) || v.numel != numel || v.device != like_.device)
                return static_cast<int64_t>(i);
            segment.array = array_of(v);
        }
        first += numel;
        if (numel > 0) segments_.push_back(segment);
    }
    if (first != task.n) throw std::runtime_error("the vectors have another number of elements than all tensors");
    task.segments = segments_.data();
    task.segment_count = static_cast<int64_t>(segments_.size());
    return -1;
}

void VectorCall::add_rows(const py::list& tensors) {
    for (const py::handle tensor : tensors) rows_.push_back(vector(tensor));
    task.rows = rows_.data();
    task.row_count = static_cast<int64_t>(rows_.size());
}

void VectorCall::make_partials(int64_t count) {
    const auto numbers = static_cast<size_t>(count * task.chunks);
    if (on_device()) {
        task.partials = static_cast<double*>(reserve(numbers * sizeof(double)));
        return;
    }
    partials_.reset(new double[numbers]);
    task.partials = partials_.get();
}

void VectorCall::run(VectorKernel VectorKernels::* kernel, int64_t units, int64_t elements) {
    const VectorKernels& table = like_.type == DType::f64 ? kernels().vectors->f64 : kernels().vectors->f32;
    run_released<VectorTask>({{table.*kernel, &task, units, elements}}, threads_);
}

void VectorCall::join(VectorKernel VectorKernels::* kernel, int64_t count) { run(kernel, count, task.chunks); }

}  // namespace fastopt
