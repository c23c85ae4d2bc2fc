// What the kernels that read a history share: 16 bytes of a row at a time, and how work is shared out.
#pragma once

#include "cuda/vectors/lanes.h"

namespace fastopt::cuda {
namespace {

// Elements of 16 bytes.
template <class T>
constexpr int kWide = int(kVectorAlignment / sizeof(T));

// Loads elements of a vector, of which there may be fewer than kWidth: the rest is 0. `kFull`: there are as many.
// `kAgain`: other warps read them as well.
template <bool kFull, bool kAgain, int kWidth, class T>
__device__ __forceinline__ void load_some(const T* from, int n, T (&values)[kWidth]) {
    if constexpr (kFull) {
        Stored<Plain<T>, kWidth> stored;
        if constexpr (kAgain)
            stored.load_shared(from, 0);
        else
            stored.load(from, 0);
        stored.unpack(values);
    } else {
        FASTOPT_UNROLL
        for (int e = 0; e < kWidth; ++e) values[e] = e < n ? from[e] : T(0);
    }
}

template <bool kFull, int kWidth, class T>
__device__ __forceinline__ void store_some(T* to, int n, const T (&values)[kWidth]) {
    if constexpr (kFull) {
        Stored<Plain<T>, kWidth>::store(to, 0, values);
    } else {
        FASTOPT_UNROLL
        for (int e = 0; e < kWidth; ++e)
            if (e < n) to[e] = values[e];
    }
}

// How much work keeps a multiprocessor busy, and the threads of a block where there is less: then it goes in smaller
// parts, of whose elements more are in flight at a time.
constexpr int64_t kManyWarps = 16, kManyElements = 4096;
constexpr int kFewThreads = 64;

inline int64_t multiprocessors(const Stream& stream) {
    int count = 0;
    check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, stream.device), "question about a device");
    return count;
}

}  // namespace
}  // namespace fastopt::cuda
