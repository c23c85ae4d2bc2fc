// Kernels that show what the emulator runs, and which defects it finds (tests/tooling/test_emulator.py).
#include "cuda/launch.h"

namespace {

// selftest.py has the same list.
enum Defect : int {
    kNone,
    kNoBarrier,
    kExited,
    kElsewhere,
    kUninitialised,
    kMask,
    kForeignLane,
    kOverrun,
    kHasty,
    kNoRelease,
    kNoAcquire,
    kPlain,
};

// out = x + y, with a tail in the last block.
struct Vectors {
    const float *x, *y;
    float* out;
    long long n;
};

__global__ void __launch_bounds__(64) add(const __grid_constant__ Vectors vectors, Defect defect) {
    const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < vectors.n + (defect == kOverrun)) vectors.out[i] = vectors.x[i] + vectors.y[i];
}

// The sum of a block's elements: by shuffles within each warp, then over the warps.
__global__ void block_sums(const double* elements, double* sums, Defect defect) {
    FASTOPT_SHARED(double[32], of_warp);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    double sum = elements[blockIdx.x * blockDim.x + threadIdx.x];
    for (unsigned half = 16; half > 0; half /= 2) sum += __shfl_down_sync(~0u, sum, half);
    if (lane == 0) of_warp[warp] = sum;
    if (defect != kNoBarrier) __syncthreads();
    if (warp > 0 || (defect == kExited && lane >= warps)) return;
    sum = lane < warps || defect == kUninitialised ? of_warp[lane] : 0.0;
    for (int half = 16; half > 0; half /= 2) sum += __shfl_xor_sync(~0u, sum, half);
    if (lane == 0) sums[blockIdx.x] = sum;
}

// Transposes a square matrix of tiles through shared memory.
constexpr unsigned kTile = 16;

__global__ void transpose(const int* from, int* to, Defect defect) {
    using Tile = int[kTile][kTile + 1];
    FASTOPT_SHARED(Tile, tile);
    const unsigned size = gridDim.x * kTile, x = threadIdx.x, y = threadIdx.y;
    tile[y][x] = from[(blockIdx.y * kTile + y) * size + blockIdx.x * kTile + x];
    if (defect != kNoBarrier) __syncthreads();
    to[(blockIdx.x * kTile + y) * size + blockIdx.y * kTile + x] = tile[x][y];
}

// Reverses the elements of each block.
__global__ void reverse(const int* from, int* to, Defect defect) {
    FASTOPT_DYNAMIC_SHARED(int, elements);
    const unsigned first = blockIdx.x * blockDim.x, i = threadIdx.x;
    elements[i + (defect == kOverrun)] = from[first + i];
    if (defect != kNoBarrier) __syncthreads();
    to[first + i] = elements[blockDim.x - 1 - i];
}

// Swaps neighbours in a row of shared memory per warp; with kHasty all warps use the first row.
__global__ void swap_pairs(const int* from, int* to, Defect defect) {
    using Rows = int[4][32];
    FASTOPT_SHARED(Rows, rows);
    const unsigned lane = threadIdx.x % 32, warp = defect == kHasty ? 0 : threadIdx.x / 32;
    rows[warp][lane] = from[threadIdx.x];
    if (defect == kPlain)
        __shfl_sync(~0u, lane, 0);  // no barrier for memory
    else if (defect != kNoBarrier)
        __syncwarp(defect == kMask ? 0xFFFFu : ~0u);
    to[threadIdx.x] = rows[warp][lane ^ 1];
}

// All threads meet in one barrier, or do not; `left` counts the threads that leave the kernel in any way.
struct Leaving {
    int* left;
    __device__ ~Leaving() { atomicAdd(left, 1); }
};

__global__ void gather(int* out, int* left, Defect defect) {
    const Leaving leaving{left};
    const bool first = threadIdx.x < 32;
    if (defect == kExited && first) return;
    if (defect == kElsewhere && first) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    out[threadIdx.x] = 1;
}

// Counts positive elements: in all, and the warps that have an odd number of them.
__global__ void count(const float* elements, int* odd, unsigned* all, unsigned long long* shifted) {
    const bool positive = elements[blockIdx.x * blockDim.x + threadIdx.x] > 0;
    const unsigned lanes = __ballot_sync(~0u, positive);
    if (__any_sync(~0u, positive) && threadIdx.x % 32 == 0) atomicAdd(odd, int(__popc(lanes)) % 2);
    atomicAdd(all, unsigned(positive));
    atomicAdd(shifted, static_cast<unsigned long long>(positive) << 32);
}

// The last block to arrive adds up what all blocks have stored, and `arrived` is zero again; with kHasty it is the
// highest block.
__global__ void last_block(const double* elements, double* left, unsigned* arrived, double* sum, Defect defect) {
    FASTOPT_SHARED(bool, is_last);
    if (threadIdx.x == 0) {
        __stcg(left + blockIdx.x, elements[blockIdx.x]);
        if (defect != kNoRelease) __threadfence();
        is_last = atomicInc(arrived, gridDim.x - 1) == gridDim.x - 1;
        if (defect != kNoAcquire) __threadfence();
        if (defect == kHasty) is_last = blockIdx.x == gridDim.x - 1;
    }
    __syncthreads();
    if (!is_last || threadIdx.x > 0) return;
    *sum = 0;
    for (unsigned i = 0; i < gridDim.x; ++i) *sum += __ldcg(left + i);
}

// Counts bytes that are not zero, each block's and all, and marks them: neighbours write to neighbouring bytes.
__global__ void mark(const int8_t* elements, int8_t* marks, int* total, Defect defect) {
    FASTOPT_SHARED(int, of_block);
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (threadIdx.x == 0) of_block = 0;
    __syncthreads();
    marks[i] = elements[i] != 0;
    atomicAdd(&of_block, marks[i]);
    if (defect != kNoBarrier) __syncthreads();
    if (threadIdx.x > 0) return;
    if (defect == kPlain)
        *total += of_block;
    else
        atomicAdd(total, of_block);
}

// One warp, five shuffles: each result is a row of 32.
template <class T>
__global__ void shuffles(const T* from, T* to, Defect defect) {
    const unsigned lane = threadIdx.x;
    const T value = __ldg(from + lane);
    const unsigned half = lane < 16 ? 0x0000FFFFu : 0xFFFF0000u;
    const T rows[] = {
        __shfl_sync(~0u, value, 37),      // lane 5
        __shfl_up_sync(~0u, value, 3),    // own values in the first three lanes
        __shfl_down_sync(~0u, value, 3),  // own values in the last three lanes
        __shfl_xor_sync(~0u, value, 5),
        lane < 16 ? __shfl_xor_sync(half, value, 1) : __shfl_sync(half, value, defect == kForeignLane ? 3 : 31),
    };
    for (unsigned i = 0; i < 5; ++i) to[32 * i + lane] = rows[i];
}

// Records when each thread of the grid runs.
__global__ void take_turns(unsigned* turns, unsigned* clock) {
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    turns[block * blockDim.x * blockDim.y * blockDim.z + thread] = atomicAdd(clock, 1u);
}

// Has a variable in addition to dynamic shared memory; the limit can be raised for one of the two instances.
template <bool raised>
__global__ void occupy() {
    FASTOPT_SHARED(char[1024], memory);
    memory[threadIdx.x] = 0;
}

constexpr size_t kStream = 1234;

template <class... Parameters>
cudaError_t start(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                  const std::common_type_t<Parameters>&... arguments) {
    const void* addresses[] = {&arguments..., nullptr};
    return cudaLaunchKernel(kernel, grid, block, const_cast<void**>(addresses), shared_bytes,
                            reinterpret_cast<cudaStream_t>(kStream));
}

}  // namespace

// What Python calls.
#define ENTRY extern "C" __attribute__((visibility("default"))) cudaError_t

ENTRY run_add(Defect defect, const float* x, const float* y, float* out, long long n) {
    return start(add, unsigned(n + 63) / 64, 64, 0, Vectors{x, y, out, n}, defect);
}
ENTRY run_block_sums(Defect defect, const double* elements, double* sums, unsigned blocks, unsigned threads) {
    return start(block_sums, blocks, threads, 0, elements, sums, defect);
}
ENTRY run_transpose(Defect defect, const int* from, int* to, unsigned tiles) {
    return start(transpose, {tiles, tiles}, {kTile, kTile}, 0, from, to, defect);
}
ENTRY run_reverse(Defect defect, const int* from, int* to, unsigned blocks, unsigned threads) {
    return start(reverse, blocks, threads, threads * sizeof(int), from, to, defect);
}
ENTRY run_swap_pairs(Defect defect, const int* from, int* to) { return start(swap_pairs, 1, 128, 0, from, to, defect); }
ENTRY run_gather(Defect defect, int* out, int* left) { return start(gather, 1, 80, 0, out, left, defect); }
ENTRY run_count(const float* elements, unsigned blocks, int* odd, unsigned* all, unsigned long long* shifted) {
    return start(count, blocks, 96, 0, elements, odd, all, shifted);
}
ENTRY run_last_block(Defect defect, const double* elements, unsigned blocks, double* left, unsigned* arrived,
                     double* sum) {
    return start(last_block, blocks, 32, 0, elements, left, arrived, sum, defect);
}
ENTRY run_mark(Defect defect, const int8_t* elements, unsigned blocks, int8_t* marks, int* total) {
    return start(mark, blocks, 64, 0, elements, marks, total, defect);
}
#define SHUFFLES(name, T)                                            \
    ENTRY run_shuffles_##name(Defect defect, const T* from, T* to) { \
        return start(shuffles<T>, 1, 32, 0, from, to, defect);       \
    }
SHUFFLES(int32, int)
SHUFFLES(uint32, unsigned)
SHUFFLES(int64, long long)
SHUFFLES(uint64, unsigned long long)
SHUFFLES(float32, float)
SHUFFLES(float64, double)
ENTRY run_take_turns(unsigned* turns, unsigned* clock) {
    return start(take_turns, {2, 3, 4}, {3, 5, 2}, 0, turns, clock);
}
ENTRY run_occupy(bool raised, const unsigned* grid, const unsigned* block, size_t shared_bytes) {
    return start(raised ? occupy<true> : occupy<false>, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]},
                 shared_bytes);
}
ENTRY raise_shared_limit(int bytes) {
    return cudaFuncSetAttribute(occupy<true>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}
ENTRY set_device(int device) { return cudaSetDevice(device); }
ENTRY device_count(int* count) { return cudaGetDeviceCount(count); }
ENTRY multiprocessors(int* count) { return cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, 0); }
ENTRY last_error() { return cudaGetLastError(); }
