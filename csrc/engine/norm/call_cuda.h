// Batch normalization on a GPU: launches on the caller's stream, and nothing that waits for them.
#pragma once

#include "cuda/engine.h"
#include "engine/interop/tensor.h"
#include "norm/task.h"

namespace fastopt {

// One call. What each function does BatchNormCall says.
class BatchNormDevice {
   public:
    // `task` is complete but for memory that lives no longer than the call.
    BatchNormDevice(const NormTask& task, int device);

    void forward();
    void evaluate();
    void backward();
    void moments();
    void gather_stats();
    void apply();
    void sums();
    void gradient();

   private:
    NormTask task_;
    cuda::Stream stream_;
    DeviceMemory scratch_;

    bool empty() const;
    void clear(double* pairs);
    void choose_dz_buffer();
};

}  // namespace fastopt
