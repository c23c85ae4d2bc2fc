// Launches a kernel on the caller's stream and device, and checks for errors. For .cu files.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#include <type_traits>

#include "cuda/engine.h"

#ifndef FASTOPT_SHARED  // the emulator defines it itself
#define FASTOPT_SHARED(type, name)                  \
    __shared__ fastopt::cuda::Shared<type> name##_; \
    auto& name = fastopt::cuda::contents(name##_)
#define FASTOPT_DYNAMIC_SHARED(type, name)                           \
    extern __shared__ __align__(16) unsigned char fastopt_dynamic[]; \
    type* const name = reinterpret_cast<type*>(fastopt_dynamic)
#endif

namespace fastopt::cuda {

// Memory without a constructor, because shared memory cannot have one.
template <class T>
struct Shared {
    alignas(alignof(T) > 16 ? alignof(T) : 16) unsigned char bytes[sizeof(T)];
};

template <class T>
__device__ __forceinline__ T& contents(Shared<T>& memory) {
    return reinterpret_cast<T&>(memory);
}

inline void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // clears the error, so that the next call does not report it
    throw std::runtime_error(std::string("CUDA error in fastopt's ") + what + ": " + cudaGetErrorName(status) + ", " +
                             cudaGetErrorString(status));
}

// Whether this process uses a device, so that its primary context exists; true if the driver does not say.
bool has_context(int device);

// Makes a device current for the guard's lifetime.
class Guard {
   public:
    explicit Guard(int device) {
        check(cudaGetDevice(&before_), "choice of a device");
        if (before_ != device) check(cudaSetDevice(device), "choice of a device");
        changed_ = before_ != device;
    }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    // cudaSetDevice would make a context of some hundred MB on a device that has none: then this one stays current, as
    // after torch's guards.
    ~Guard() {
        if (changed_ && has_context(before_) && cudaSetDevice(before_) != cudaSuccess) cudaGetLastError();
    }

   private:
    int before_ = 0;
    bool changed_ = false;
};

// The shared memory that a block gets without asking for more.
constexpr size_t kSharedUnasked = size_t(48) << 10;
constexpr size_t kStaticBytes = size_t(8) << 10;  // at most; dynamic memory comes in addition

struct Grid {
    int64_t blocks;
    int threads;
    size_t shared_bytes = 0;  // dynamic shared memory
};

// `name` stands for the kernel in error messages. The runtime copies the arguments, of up to 32 KB, from where they
// are; cudaLaunchKernelEx would copy them once more before.
template <class... Parameters>
void launch(const Stream& stream, const char* name, void (*kernel)(Parameters...), const Grid& grid,
            const std::common_type_t<Parameters>&... arguments) {
    if (grid.blocks == 0) return;
    const Guard guard(stream.device);
    if (grid.shared_bytes + kStaticBytes > kSharedUnasked)
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(grid.shared_bytes)), name);
    const void* addresses[] = {&arguments...};
    check(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(grid.blocks)), dim3(static_cast<unsigned>(grid.threads)),
                           const_cast<void**>(addresses), grid.shared_bytes, static_cast<cudaStream_t>(stream.handle)),
          name);
    check(cudaGetLastError(), name);
}

// The limit for the size of all parameters of a kernel, which all are copied at each launch, and the size of those that
// a small step needs. Kernels of which there are few have both sizes.
constexpr size_t kParameterBytes = CUDART_VERSION >= 12010 ? 32764 : 4096, kFewParameterBytes = 4096;

// Calls start(first, n) for `count` items, at most `most` at a time.
template <class Start>
void in_turns(int count, int most, Start start) {
    for (int first = 0; first < count; first += most) start(first, count - first < most ? count - first : most);
}

}  // namespace fastopt::cuda
