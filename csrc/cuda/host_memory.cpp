// The CPU's memory belongs to the host; the tests' emulator replaces this file.
#include "cuda/engine.h"

namespace fastopt::cuda {

int device_of_host() { return kHost; }

}  // namespace fastopt::cuda
