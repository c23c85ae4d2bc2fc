// What this build has, what it needs of a driver, and what the driver says of a device.
#include "cuda/launch.h"

namespace fastopt::cuda {

namespace {

std::string dotted(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

// Drivers of the toolkit's major version run what it has built; parameters of more than 4 KB need one of CUDA 12.1.
constexpr int kFirstOfMajor = CUDART_VERSION / 1000 * 1000;
constexpr int kOldestDriver = kParameterBytes > 4096 && kFirstOfMajor < 12010 ? 12010 : kFirstOfMajor;

// cuDevicePrimaryCtxGetState, whose types are in cuda.h.
using StateOfContext = int(int device, unsigned* flags, int* active);

// Null if the driver does not have it.
StateOfContext* find_state_of_context() {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult how;
#if CUDART_VERSION >= 12050
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuDevicePrimaryCtxGetState", &found, 7000, cudaEnableDefault, &how);
#else
    const cudaError_t status = cudaGetDriverEntryPoint("cuDevicePrimaryCtxGetState", &found, cudaEnableDefault, &how);
#endif
    if (status != cudaSuccess) cudaGetLastError();
    return status == cudaSuccess ? reinterpret_cast<StateOfContext*>(found) : nullptr;
}

}  // namespace

std::string built() { return dotted(CUDART_VERSION); }

std::string oldest_driver() { return dotted(kOldestDriver); }

std::string refusal_of_driver(int version) {
    if (version == 0) return "no NVIDIA driver was found (nvidia-smi tells of one that works)";
    if (version >= kOldestDriver) return "";
    return "the NVIDIA driver is one of CUDA " + dotted(version) + ", and fastopt was built with CUDA " + built() +
           ", which needs one of CUDA " + oldest_driver() + ": a newer driver is needed, or a build with an older nvcc";
}

bool has_context(int device) {
    static StateOfContext* const state_of_context = find_state_of_context();
    unsigned flags = 0;
    int active = 0;
    return !state_of_context || state_of_context(device, &flags, &active) != 0 || active;
}

}  // namespace fastopt::cuda
