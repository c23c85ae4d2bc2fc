// Normalization of channels on a GPU: launches on the caller's stream, and never waits.
#pragma once

#include "cuda/engine.h"
#include "engine/interop/tensor.h"
#include "norm/task.h"

namespace fastopt {

// One call. ChannelCall documents the functions.
class ChannelDevice {
   public:
    // `task` is complete except for memory that is needed only during the call.
    ChannelDevice(const NormTask& task, int device);

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
    void clear(double* pairs, int64_t count);
    void choose_dz_buffer();
};

}  // namespace fastopt
