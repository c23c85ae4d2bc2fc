// What was built, and what is there.
#include "launch.h"

namespace fastopt::cuda {

std::string built() { return std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10); }

int device_count(std::string& why) {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaSuccess) return count;
    cudaGetLastError();
    why = cudaGetErrorString(status);
    return 0;
}

}  // namespace fastopt::cuda
