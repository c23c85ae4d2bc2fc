// Where kernels are emulated, the CPU's memory belongs to the first GPU.
#include "cuda/engine.h"

namespace fastopt::cuda {

int device_of_host() { return 0; }

}  // namespace fastopt::cuda
