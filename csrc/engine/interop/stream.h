// A GPU as the engine sees it.
#pragma once

#include "cuda/engine.h"
#include "engine/interop/tensor.h"

namespace fastopt {

// torch's current stream, for the next launches.
inline cuda::Stream stream_of(int device) { return {device, current_stream(device)}; }

}  // namespace fastopt
