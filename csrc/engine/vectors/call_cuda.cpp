// Calls on vectors in a device's memory. Memory for the call is torch's, so what is freed at its end may still be used
// by the work that it has queued.
#include "engine/vectors/call.h"

namespace py = pybind11;

namespace fastopt {

void* VectorCall::reserve(size_t bytes) {
    held_.push_back(allocate(like_.device, bytes));
    return held_.back().data;
}

void VectorCall::start(void (*kernels)(const cuda::Stream&, const VectorTask&)) {
    const cuda::Stream to = stream();
    const size_t segments = segments_.size() * sizeof(Segment), rows = rows_.size() * sizeof(void*);
    VectorTask there = task;
    there.segments = static_cast<const Segment*>(reserve(segments));
    there.rows = static_cast<void* const*>(reserve(rows));
    const py::gil_scoped_release released;
    cuda::upload(to, segments_.data(), segments, const_cast<Segment*>(there.segments));
    cuda::upload(to, rows_.data(), rows, const_cast<void**>(there.rows));
    kernels(to, there);
}

}  // namespace fastopt
