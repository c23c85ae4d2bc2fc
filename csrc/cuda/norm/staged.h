// Sums of half types in planes: lane l adds up the elements l, l + 32, ..., of 2 bytes each. Loaded one by one they
// would leave little memory under way, so a warp loads vectors into shared memory, and its lanes take their elements
// there.
#pragma once

#include "cuda/norm/lanes.h"

namespace fastopt::cuda {
namespace {

// Loads the elements at one place of several arrays: x, its gradient, and a residual, which may be null.
template <class Storage, int kArrays>
struct Loader {
    struct Loaded {
        Storage of[kArrays];
        __device__ __forceinline__ operator Storage() const { return of[0]; }  // of a single array
    };

    const Storage* arrays[kArrays];

    __device__ __forceinline__ bool has(int a) const { return a < 2 || arrays[a] != nullptr; }
    __device__ __forceinline__ Loaded operator()(int64_t at) const {
        Loaded loaded{};
        for (int a = 0; a < kArrays; ++a)
            if (has(a)) loaded.of[a] = arrays[a][at];
        return loaded;
    }
};

constexpr int kHalvesInVector = int(sizeof(uint4) / sizeof(uint16_t));

// A warp's shared memory for `kVectors` vectors per lane of each array.
template <class Storage, int kArrays, int kVectors>
struct Stage {
    static constexpr int width = int(sizeof(uint4) / sizeof(Storage)), elements = kVectors * kLanes * width;

    uint4 vectors[kArrays][kVectors * kLanes];

    // As for_places for a segment of whole vectors. All lanes of the warp must call this.
    template <int kAtOnce, class Add>
    __device__ __forceinline__ void for_segment(const Loader<Storage, kArrays>& load, int64_t begin, int n, Add add) {
        using Loaded = typename Loader<Storage, kArrays>::Loaded;
        const int lane = int(threadIdx.x) % kLanes;
        for (int first = 0; first < n; first += elements) {
            const int some = n - first < elements ? n - first : elements;
            uint4 loaded[kArrays][kVectors];
            const auto is_there = [&](int a, int v) { return load.has(a) && (v * kLanes + lane) * width < some; };
            for (int a = 0; a < kArrays; ++a) {
                const uint4* const from = reinterpret_cast<const uint4*>(load.arrays[a] + begin + first) + lane;
                FASTOPT_UNROLL
                for (int v = 0; v < kVectors; ++v)
                    if (is_there(a, v)) loaded[a][v] = __ldcg(from + v * kLanes);
            }
            __syncwarp();  // after the turn before
            for (int a = 0; a < kArrays; ++a) FASTOPT_UNROLL
            for (int v = 0; v < kVectors; ++v)
                if (is_there(a, v)) vectors[a][v * kLanes + lane] = loaded[a][v];
            __syncwarp();
            for_places<kAtOnce>(
                OneSegment(0), some,
                [&](int64_t i) {
                    Loaded own{};
                    for (int a = 0; a < kArrays; ++a) own.of[a] = reinterpret_cast<const Storage*>(vectors[a])[i];
                    return own;
                },
                [&](const Loaded& own, int64_t i, bool exists) { add(own, begin + first + i, exists); });
        }
    }
};

}  // namespace
}  // namespace fastopt::cuda
