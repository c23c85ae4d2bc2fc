// Sums in the 32 lanes of a warp: lane l has the elements l, l + 32, ... like the CPU's lanes.
#pragma once

#include "cuda/norm/norm.h"
#include "norm/pieces.h"

namespace fastopt::cuda {
namespace {

// The places of contiguous elements.
struct OneSegment {
    int64_t at;
    __device__ __forceinline__ explicit OneSegment(int64_t begin) : at(begin) {}
    __device__ __forceinline__ int64_t of(int i) const { return at + i; }
};

// Calls add(load(place), place, exists) for the places of this lane in order; `kAtOnce` loads are in flight at a time.
template <int kAtOnce, class Places, class Load, class Add>
__device__ __forceinline__ void for_places(const Places& places, int n, Load load, Add add) {
    const int lane = int(threadIdx.x) % kLanes;
    int first = 0;
    for (; first + kAtOnce * kLanes <= n; first += kAtOnce * kLanes) {
        decltype(load(int64_t{})) loaded[kAtOnce];
        for (int k = 0; k < kAtOnce; ++k) loaded[k] = load(places.of(first + k * kLanes + lane));
        for (int k = 0; k < kAtOnce; ++k) add(loaded[k], places.of(first + k * kLanes + lane), true);
    }
    if (first == n) return;
    decltype(load(int64_t{})) loaded[kAtOnce];
    for (int k = 0; k < kAtOnce; ++k) {
        const int i = first + k * kLanes + lane;
        if (i < n) loaded[k] = load(places.of(i));
    }
    for (int k = 0; k < kAtOnce; ++k) {
        const int i = first + k * kLanes + lane;
        if (first + k * kLanes < n) add(loaded[k], places.of(i), i < n);
    }
}

// The sum of all lanes, in lane 0.
template <class T>
__device__ __forceinline__ double merged(T lane) {
    return merge_lanes(double(lane), [](double a, double b) { return a + b; });
}

// Computes the shift from the first elements of a flush block: for_first(some, add) calls add(x, place, exists) for as
// many of its first piece, which has `n`.
template <class Format, class ForFirst>
__device__ __forceinline__ typename Format::Compute shift_of(typename Format::Compute first, int n,
                                                             ForFirst for_first) {
    constexpr int kMost = int(kShiftRows) * kLanes;
    using T = typename Format::Compute;
    const int some = n < kMost ? n : kMost;
    T sum{};
    for_first(some, [&](typename Format::Storage x, int64_t, bool is_element) {
        sum += (is_element ? Format::load(x) : first) - first;
    });
    return __shfl_sync(~0u, shift_from(first, merged(sum), 1.0 / some), 0);
}

// Moments of a flush block of `n` elements, in lane 0, from for_all(add).
template <class Format, class ForAll>
__device__ __forceinline__ PartialSums moments_about(typename Format::Compute shift, double n, ForAll for_all) {
    using T = typename Format::Compute;
    T sum{}, squares{};
    for_all([&](typename Format::Storage x, int64_t, bool is_element) {
        const T delta = (is_element ? Format::load(x) : shift) - shift;
        sum += delta;
        squares += delta * delta;
    });
    const Moments found = moments_from(double(shift), merged(sum), merged(squares), 1 / n);
    return {found.mean, found.squares};
}

}  // namespace
}  // namespace fastopt::cuda
