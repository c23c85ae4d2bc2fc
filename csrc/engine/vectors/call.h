// One call on vectors: takes its operands, and runs its kernels.
#pragma once

#include <memory>
#include <vector>

#include "engine/interop/operands.h"
#include "engine/interop/stream.h"
#include "engine/workers/run.h"
#include "vectors/task.h"

namespace fastopt {

class VectorCall {
   public:
    // A call on vectors like `like`.
    VectorCall(pybind11::handle like, int threads);

    // Memory of a vector; null where Python passed None.
    void* vector(pybind11::handle tensor);

    // Memory of `count` float64 numbers.
    double* numbers(pybind11::handle tensor, int64_t count) const;

    // Returns the index of the first tensor that the kernels cannot take, or -1.
    int64_t take_segments(const pybind11::list& tensors, const pybind11::list& weights, const pybind11::list& numels);

    void add_rows(const pybind11::list& tensors);

    // Room for the partial results of `count` sums.
    void make_partials(int64_t count);

    // Runs a kernel over `units`, each of them of about so many elements. Sums of it are joined into task.sums.
    void run(VectorKernel VectorKernels::* kernel, int64_t units, int64_t elements);
    void join(VectorKernel VectorKernels::* kernel, int64_t count);

    // On a device: starts all of a call's kernels on the caller's stream, and does not wait.
    bool on_device() const { return like_.device != kHost; }
    cuda::Stream stream() const { return stream_of(like_.device); }
    void start(void (*kernels)(const cuda::Stream&, const VectorTask&));

    VectorTask task{};

   private:
    TensorView like_;
    int threads_;
    std::vector<Segment> segments_;
    std::vector<void*> rows_;
    std::unique_ptr<double[]> partials_;  // not initialised
    std::vector<DeviceMemory> held_;      // a device's partial results and tables

    void* reserve(size_t bytes);
};

}  // namespace fastopt
