// The CPU's memory is the CPU's; the emulator of the tests has another opinion.
#include "cuda/engine.h"

namespace fastopt::cuda {

int device_of_host() { return kHost; }

}  // namespace fastopt::cuda
