// What the kernels of batch normalization share.
#pragma once

#include "cuda/launch.h"
#include "cuda/memory.h"
#include "cuda/warp.h"
#include "norm/activations.h"
#include "norm/channel.h"

namespace fastopt::cuda {
namespace {

// Whether the gradient of z equals the incoming gradient.
template <class Activation>
constexpr bool kPasses = false;
template <>
constexpr bool kPasses<Identity> = true;

// z, from x and the residual, if any.
template <class T>
__device__ __forceinline__ T z_of(T x, const Coefficients<T>& of, bool has_residual, T residual) {
    const T z = normalized(x, of.center, of.scale, of.offset);
    return has_residual ? z + residual : z;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Sums or moments of a part of a chunk, as its warps hand them to the first warp.
struct PartialSums {
    double first, second;
};

// Joins moments in order; `of` is the share of the new part.
struct JoinMoments {
    __device__ __forceinline__ static void join(PartialSums& all, const PartialSums& part, Share of) {
        fastopt::join(all.first, all.second, part.first, part.second, of);
    }
    __device__ __forceinline__ static Share share_of(double before, double count) { return share(before, count); }
};

struct JoinSums {
    __device__ __forceinline__ static void join(PartialSums& all, const PartialSums& part, Share) {
        all.first += part.first;
        all.second += part.second;
    }
    __device__ __forceinline__ static Share share_of(double, double) { return {}; }
};

}  // namespace

// planes.cu, columns.cu: write one pair per chunk to where the CPU's kernels write it.
void gather_plane_moments(const Stream& stream, const NormTask& task);
void gather_plane_sums(const Stream& stream, const NormTask& task);
void gather_column_moments(const Stream& stream, const NormTask& task);
void gather_column_sums(const Stream& stream, const NormTask& task);

}  // namespace fastopt::cuda
