// What was built, and what is there.
#include "launch.h"

namespace fastopt::cuda {
namespace {

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

// In the runtime's words a driver that is missing is one whose version is insufficient.
std::string explain(cudaError_t status) {
    if (status != cudaErrorInsufficientDriver) return cudaGetErrorString(status);
    int driver = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return "no CUDA driver is installed";
    return "the CUDA driver is too old: it supports CUDA " + version(driver) + ", the kernels need " + built();
}

}  // namespace

std::string built() { return version(CUDART_VERSION); }

int device_count(std::string& why) {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaSuccess) return count;
    cudaGetLastError();
    why = explain(status);
    return 0;
}

}  // namespace fastopt::cuda
