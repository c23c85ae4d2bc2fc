// What the host calls, with the runtime's names, numbers and signatures.
#pragma once

#include <cstddef>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "vector_types.h"

#define CUDART_VERSION 13000

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorInvalidDeviceFunction = 98,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchOutOfResources = 701,
    cudaErrorLaunchFailure = 719,
    cudaErrorNotSupported = 801,
    cudaErrorUnknown = 999,
};

enum cudaDeviceAttr {
    cudaDevAttrMaxThreadsPerMultiProcessor = 39,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess = 0, cudaDriverEntryPointSymbolNotFound = 1 };

constexpr unsigned long long cudaEnableDefault = 0;

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

using cudaStream_t = struct CUstream_st*;

const char* cudaGetErrorName(cudaError_t);
const char* cudaGetErrorString(cudaError_t);  // for a launch failure: what the emulator found
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned version,
                                             unsigned long long flags, cudaDriverEntryPointQueryResult* how);
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream = nullptr);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);

template <class T>
cudaError_t cudaFuncSetAttribute(T* kernel, cudaFuncAttribute attribute, int value) {
    return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

namespace emulator {

struct Configuration {
    dim3 grid, block;
    size_t shared_bytes;
    cudaStream_t stream;
};

struct Kernel {
    const void* address;
    const char* types;  // of its parameters: a kernel in an anonymous namespace has no other name at run time
    size_t parameter_bytes;
};

cudaError_t launch(const Configuration& configuration, const Kernel& kernel, const std::function<void()>& thread);

// The size of the parameters, one after the other and each aligned.
template <class... Parameters>
constexpr size_t parameter_bytes() {
    size_t end = 0;
    ((end = (end + alignof(Parameters) - 1) / alignof(Parameters) * alignof(Parameters) + sizeof(Parameters)), ...);
    return end;
}

template <class... Parameters>
constexpr const char* type_names() {
    return __PRETTY_FUNCTION__;
}

template <class... Parameters, size_t... i>
std::tuple<Parameters...> copied([[maybe_unused]] void** arguments, std::index_sequence<i...>) {
    return std::tuple<Parameters...>(*static_cast<Parameters*>(arguments[i])...);
}

}  // namespace emulator

template <class... Parameters>
cudaError_t cudaLaunchKernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, void** arguments,
                             size_t shared_bytes, cudaStream_t stream) {
    constexpr size_t bytes = emulator::parameter_bytes<Parameters...>();
    static_assert(bytes <= 32764, "a kernel's parameters take 32764 bytes at most");
    static_assert((std::is_trivially_copyable_v<Parameters> && ...), "parameters are copied to the device as bytes");
    const emulator::Kernel described{reinterpret_cast<const void*>(kernel), emulator::type_names<Parameters...>(),
                                     bytes};
    const auto parameters = emulator::copied<Parameters...>(arguments, std::index_sequence_for<Parameters...>());
    // The race detector need not see how a thread gets its parameters.
    const auto thread = [&]() __attribute__((no_sanitize("thread"))) { std::apply(kernel, parameters); };
    return emulator::launch({grid, block, shared_bytes, stream}, described, thread);
}
