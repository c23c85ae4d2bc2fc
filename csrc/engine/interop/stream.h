// A GPU from the engine's side.
#pragma once

#include "cuda/engine.h"
#include "engine/interop/tensor.h"

namespace fastopt {

// That of torch, for what is launched next.
inline cuda::Stream stream_of(int device) { return {device, current_stream(device)}; }

}  // namespace fastopt
