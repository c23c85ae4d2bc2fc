// Defects that tests/ptx.py has to find, one per kernel, and a sound kernel that compiler flags can spoil.
#include <cuda_fp16.h>

namespace {

__device__ __forceinline__ int index() { return int(blockIdx.x * blockDim.x + threadIdx.x); }

}  // namespace

__global__ void __launch_bounds__(256) sound(const uint4* in, uint4* out, float factor) {
    uint4 loaded = __ldcg(in + index());
    const float x = __uint_as_float(loaded.x), y = __uint_as_float(loaded.y);
    loaded.x = __float_as_uint(sqrtf(x) / y + factor * x);
    __stcg(out + index(), loaded);
}

__global__ void __launch_bounds__(256) contracted(const float* in, float* out, float factor) {
    out[index()] = fmaf(factor, in[index()], out[index()]);
}

__global__ void __launch_bounds__(256) contracted_half(const __half* in, __half* out) {
    out[index()] = __hfma(in[index()], in[index()], out[index()]);
}

__global__ void __launch_bounds__(256) approximate(const float* in, float* out) { out[index()] = __expf(in[index()]); }

__global__ void __launch_bounds__(256) added_in_any_order(const double* in, double* out) {
    atomicAdd(out, in[index()]);
}

__global__ void __launch_bounds__(256) in_local_memory(const int* in, double* out) {
    double kept[32];
    for (int k = 0; k < 32; ++k) kept[in[k]] = in[k];
    out[index()] = kept[in[index()]];
}

__global__ void unbounded(const float* in, float* out) { out[index()] = in[index()]; }

// 1024 threads with more than 32 registers each.
__global__ void __launch_bounds__(1024) alone_on_a_multiprocessor(const double* in, double* out) {
    double kept[16];
    for (int k = 0; k < 16; ++k) kept[k] = in[index() + k * 1024];
    __syncthreads();
    for (int k = 0; k < 16; ++k) out[index() + k * 1024] = kept[k];
}
