// The CPU's memory is the CPU's; the emulator of the tests has another opinion.
#include "engine.h"

namespace fastopt::cuda {

int device_of_host() { return kHost; }

}  // namespace fastopt::cuda
