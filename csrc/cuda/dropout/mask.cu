// The masks themselves, and the Philox blocks that they are made of. Each thread draws one block.
#include "cuda/dropout/dropout.h"

namespace fastopt::cuda {
namespace {

constexpr int kThreads = kWarps * kLanes;

__device__ __forceinline__ int64_t thread_of_grid() { return int64_t(blockIdx.x) * kThreads + threadIdx.x; }

__global__ void __launch_bounds__(kThreads)
    write_bytes(const __grid_constant__ DeviceMask mask, uint8_t* out, int64_t n) {
    const int64_t block = thread_of_grid(), at = block * kElementsPerBlock;
    if (at >= n) return;
    const unsigned flags = flags_of_block(mask.get(), uint64_t(block));
    uint8_t bytes[kElementsPerBlock];
    for (int i = 0; i < kElementsPerBlock; ++i) bytes[i] = uint8_t(flags >> i & 1);
    uint2 both;
    static_assert(sizeof both == sizeof bytes);
    __builtin_memcpy(&both, bytes, sizeof both);
    if (n - at >= kElementsPerBlock && reinterpret_cast<uintptr_t>(out) % sizeof both == 0) {
        *reinterpret_cast<uint2*>(out + at) = both;
        return;
    }
    for (int i = 0; i < kElementsPerBlock; ++i)
        if (at + i < n) out[at + i] = bytes[i];
}

__global__ void __launch_bounds__(kThreads)
    write_bits(const __grid_constant__ DeviceMask mask, uint8_t* out, int64_t n) {
    const int64_t block = thread_of_grid(), left = n - block * kElementsPerBlock;
    if (left <= 0) return;
    const unsigned flags = flags_of_block(mask.get(), uint64_t(block));
    out[block] = uint8_t(left < kElementsPerBlock ? flags & ((1u << left) - 1) : flags);
}

__global__ void __launch_bounds__(kThreads)
    write_words(const __grid_constant__ DeviceMask mask, uint32_t* out, uint64_t first, int64_t count) {
    const int64_t i = thread_of_grid();
    if (i >= count) return;
    const Mask known = mask.get();
    const Philox drawn = Philox::block(known.seed, first + uint64_t(i), known.offset);
    for (int word = 0; word < 4; ++word) out[4 * i + word] = drawn.word[word];
}

Grid grid_of(int64_t blocks) { return {(blocks + kThreads - 1) / kThreads, kThreads}; }

}  // namespace

void write_mask(const Stream& stream, const DropoutTask& task, int64_t n, bool packed) {
    const Grid grid = grid_of((n + kElementsPerBlock - 1) / kElementsPerBlock);
    launch(stream, "mask", packed ? write_bits : write_bytes, grid, DeviceMask(task),
           static_cast<uint8_t*>(task.out.data), n);
}

void write_blocks(const Stream& stream, const DropoutTask& task, uint64_t first, int64_t count) {
    launch(stream, "blocks of random bits", write_words, grid_of(count), DeviceMask(task),
           static_cast<uint32_t*>(task.out.data), first, count);
}

}  // namespace fastopt::cuda
