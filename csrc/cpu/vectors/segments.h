// Between the tensors of all parameters and a vector.
#pragma once

#include "cpu/block.h"
#include "vectors/task.h"

namespace fastopt {
namespace {

// Calls visit(segment, first element in the tensor, first element in the vector, count) for pieces of at most kBlock.
template <class Visit>
FASTOPT_HD void for_pieces(const VectorTask& task, int64_t begin, int64_t end, Visit visit) {
    int64_t low = 0, high = task.segment_count;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        (task.segments[middle].first <= begin ? low : high) = middle;
    }
    for (int64_t at = begin; at < end; ++low) {
        const Segment& segment = task.segments[low];
        int64_t until = low + 1 < task.segment_count ? task.segments[low + 1].first : task.n;
        if (until > end) until = end;
        while (at < until) {
            const int n = int(until - at < kBlock ? until - at : kBlock);
            visit(segment, at - segment.first, at, n);
            at += n;
        }
    }
}

FASTOPT_HD int64_t chunk_end(const VectorTask& task, int64_t chunk) {
    const int64_t end = (chunk + 1) * task.chunk;
    return end < task.n ? end : task.n;
}

template <class T>
void gather_chunk(const VectorTask& task, int64_t chunk) {
    T* const out = static_cast<T*>(task.out);
    alignas(64) T buffer[kBlock];
    for_pieces(task, chunk * task.chunk, chunk_end(task, chunk),
               [&](const Segment& segment, int64_t from, int64_t to, int n) {
                   if (segment.array.data == nullptr) {
                       __builtin_memset(out + to, 0, static_cast<size_t>(n) * sizeof(T));
                       return;
                   }
                   const T* const values = load(segment.array, from, n, buffer);
                   const T weight = T(segment.weight);
                   FASTOPT_VECTORIZE
                   for (int i = 0; i < n; ++i) out[to + i] = weight * values[i];
               });
}

// Sets all tensors to base + t * direction; without direction to base.
template <class T>
void scatter_vector(const VectorTask& task, int64_t begin, int64_t end) {
    const T *const base = static_cast<const T*>(task.base), *const direction = static_cast<const T*>(task.direction);
    alignas(64) T buffer[kBlock];
    for (int64_t chunk = begin; chunk < end; ++chunk)
        for_pieces(task, chunk * task.chunk, chunk_end(task, chunk),
                   [&](const Segment& segment, int64_t to, int64_t from, int n) {
                       if (direction == nullptr) return store(segment.array, to, n, base + from);
                       const T step = T(task.t * segment.weight);
                       T* const moved =
                           segment.array.type == kNative<T> ? static_cast<T*>(segment.array.data) + to : buffer;
                       FASTOPT_VECTORIZE
                       for (int i = 0; i < n; ++i) moved[i] = base[from + i] + step * direction[from + i];
                       if (moved == buffer) store(segment.array, to, n, buffer);
                   });
}

}  // namespace
}  // namespace fastopt
