// Batch normalization on a GPU: launches on the caller's stream, and never waits.
#pragma once

#include "cuda/engine.h"
#include "engine/interop/tensor.h"
#include "norm/task.h"

namespace fastopt {

// One call. BatchNormCall documents the functions.
class BatchNormDevice {
   public:
    // `task` is complete except for memory that is needed only during the call.
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
