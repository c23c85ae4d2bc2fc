// A warp's elements of a vector, between it and the tensors of all parameters. Tensors begin anywhere in the vector, so
// that vectors of 16 bytes would rarely be aligned in both: a thread takes elements one by one, several at a time, and
// its warp's neighbouring elements.
#pragma once

#include "cuda/vectors/lanes.h"

namespace fastopt::cuda {
namespace {

// The segment in [low, high] that has an element of the vector.
__device__ __forceinline__ int segment_of(const VectorTask& task, int64_t element, int low, int high) {
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (task.segments[middle].first <= element)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

// Calls visit(format) with the storage format of a tensor.
template <class Visit>
__device__ __forceinline__ void with_format(DType type, Visit visit) {
    switch (type) {
        case DType::f64: return visit(Plain<double>());
        case DType::bf16: return visit(Narrow<BFloat16>());
        case DType::f16: return visit(Narrow<Float16>());
        default: return visit(Plain<float>());
    }
}

// Calls visit(format, k, segment, index) for the k-th element of this thread, of those that its warp has from `begin`
// on, where `left` are left of the vector: an element of that segment's tensor.
template <int kCount, class Visit>
__device__ __forceinline__ void visit_segments(const VectorTask& task, int64_t begin, int left, Visit visit) {
    if (left <= 0) return;
    const int n = left < kCount * kLanes ? left : kCount * kLanes;
    const int lane = lane_of_thread(), segments = int(task.segment_count);
    const int first = segment_of(task, begin, 0, segments - 1);
    if (first + 1 == segments || task.segments[first + 1].first >= begin + n) {
        const Segment segment = task.segments[first];
        with_format(segment.array.type, [&](auto format) {
            FASTOPT_UNROLL
            for (int k = 0; k < kCount; ++k)
                if (k * kLanes + lane < n) visit(format, k, segment, begin + k * kLanes + lane - segment.first);
        });
        return;
    }
    const int last = segments - first > n ? first + n - 1 : segments - 1;  // at most, as none is empty
    FASTOPT_UNROLL
    for (int k = 0; k < kCount; ++k) {
        const int64_t element = begin + k * kLanes + lane;
        if (k * kLanes + lane >= n) break;
        const Segment segment = task.segments[segment_of(task, element, first, last)];
        with_format(segment.array.type, [&](auto format) { visit(format, k, segment, element - segment.first); });
    }
}

}  // namespace
}  // namespace fastopt::cuda
