// Sums over vectors in the CPU's shape (cpu/vectors/sums.h): a thread is a lane, all threads of a block bring a chunk's
// elements, piece by piece, to shared memory, and the first warps add them up.
#pragma once

#include "cuda/launch.h"
#include "cuda/memory.h"
#include "cuda/warp.h"
#include "vectors/task.h"

namespace fastopt::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kLanes;

// Elements of a vector that a thread takes, a warp and a block. A warp's neighbours have neighbouring elements.
template <class T>
constexpr int kEach = int(32 / sizeof(T));
template <class T>
constexpr int kOfWarp = kEach<T> * kLanes;
template <class T>
constexpr int kOfBlock = kEach<T> * kThreads;
static_assert(kShortChunk % kOfBlock<float> == 0 && kVectorChunk % kOfBlock<float> == 0);

inline int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

__device__ __forceinline__ int lane_of_thread() { return int(threadIdx.x) % kLanes; }
__device__ __forceinline__ int warp_of_thread() { return int(threadIdx.x) / kLanes; }

struct Chunk {
    int64_t begin;
    int n;

    __device__ __forceinline__ Chunk(const VectorTask& task, int64_t chunk)
        : begin(chunk * task.chunk), n(int(task.n - begin < task.chunk ? task.n - begin : task.chunk)) {}
};

// Loads this thread's elements of a vector, of n that its warp has from `begin` on.
template <class T>
__device__ __forceinline__ void load_own(const void* vector, int64_t begin, int n, T (&values)[kEach<T>]) {
    FASTOPT_UNROLL
    for (int k = 0; k < kEach<T>; ++k) {
        const int i = k * kLanes + lane_of_thread();
        if (i < n) values[k] = static_cast<const T*>(vector)[begin + i];
    }
}

// Calls visit(begin, n) for the pieces of a chunk that a block takes at a time: the first element in the chunk.
template <class T, class Visit>
__device__ __forceinline__ void for_pieces(const Chunk& chunk, Visit visit) {
    for (int begin = 0; begin < chunk.n; begin += kOfBlock<T>)
        visit(begin, chunk.n - begin < kOfBlock<T> ? chunk.n - begin : kOfBlock<T>);
}

// Calls add(i) for the elements of this thread's lane, of n in shared memory.
template <class Add>
__device__ __forceinline__ void by_lane(int n, Add add) {
    for (int i = lane_of_thread(); i < n; i += kLanes) add(i);
}

// Writes a chunk's sum from this warp's lanes.
template <class Join>
__device__ __forceinline__ void write_partial(const VectorTask& task, int sum, double lane, Join join) {
    lane = merge_lanes(lane, join);
    if (lane_of_thread() == 0) task.partials[sum * task.chunks + blockIdx.x] = lane;
}

}  // namespace

// Joins the partial results of `count` sums, of which one is a maximum, unless it is kNone (vectors.cu).
constexpr int64_t kNone = -1;
void join_sums(const Stream& stream, const VectorTask& task, int64_t count, int64_t largest);

}  // namespace fastopt::cuda
