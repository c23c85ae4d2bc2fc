// What this build has, and which devices are there.
#include "cuda/launch.h"

namespace fastopt::cuda {

namespace {

std::string dotted(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

// The runtime has one message for a missing driver and for one that is too old; this tells them apart.
std::string in_words(cudaError_t status) {
    int driver = 0;
    const bool asked = cudaDriverGetVersion(&driver) == cudaSuccess;
    if (status == cudaErrorInsufficientDriver && asked && driver == 0)
        return "no NVIDIA driver was found (nvidia-smi tells of one that works)";
    if (status == cudaErrorInsufficientDriver && asked)
        return "the NVIDIA driver is one of CUDA " + dotted(driver) + ", and fastopt was built with CUDA " + built() +
               ": a newer driver is needed, or a build with an older nvcc";
    if (status == cudaErrorNoDevice) return "the NVIDIA driver shows no GPU (CUDA_VISIBLE_DEVICES may hide them)";
    return cudaGetErrorString(status);
}

}  // namespace

std::string built() { return dotted(CUDART_VERSION); }

int device_count(std::string& why) {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaSuccess) return count;
    cudaGetLastError();
    why = in_words(status);
    return 0;
}

}  // namespace fastopt::cuda
