// Normalization of rows on a GPU: launches on the caller's stream, and never waits.
#pragma once

#include "cuda/engine.h"
#include "engine/interop/tensor.h"
#include "norm/task.h"

namespace fastopt {

// One call. RowCall documents the functions.
class RowDevice {
   public:
    // `task` is complete except for memory that is needed only during the call. `centered`: layer normalization,
    // otherwise RMS.
    RowDevice(const NormTask& task, bool centered, int device);

    void forward();
    void backward();

   private:
    NormTask task_;
    bool centered_;
    cuda::Stream stream_;
    DeviceMemory scratch_;

    bool sums() const;  // whether gradients of weight or bias are wanted
};

}  // namespace fastopt
