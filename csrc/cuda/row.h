// Rows of at most 256 elements in a warp's registers: lane l has the elements l, l + 32, ... Where all rows are full, a
// thread may have `kWidth` neighbouring lanes, and loads their elements at once.
#pragma once

#include "cuda/memory.h"
#include "math/sums.h"
#include "rules/factored.h"

namespace fastopt {
namespace {

constexpr int kRowSteps = kTileColumns / kLanes;  // elements per lane

// Whether a row of so many columns has the `i`-th element of the thread whose first lane is `lane`. Rows of wide
// threads are full, or there is no row.
template <int kWidth>
__device__ __forceinline__ bool has_element(int columns, int lane, int i) {
    return kWidth == 1 ? lane + i * kLanes < columns : columns > 0;
}

// A thread's elements of a row as stored. Elements beyond `columns` are zeros.
template <class Format, int kWidth, int kOwn>
struct StoredRow {
    Stored<Format, kWidth> stored[kOwn / kWidth];

    // The row begins at `data` + `at`.
    __device__ __forceinline__ void load(const void* data, int64_t at, int columns, int lane) {
        for (int k = 0; k < kOwn / kWidth; ++k) {
            stored[k].memory = {};
            if (has_element<kWidth>(columns, lane, k)) stored[k].load_shared(data, at + lane + k * kLanes);
        }
    }

    // Elements from the thread's `first` on.
    template <int kCount>
    __device__ __forceinline__ void unpack(int first, typename Format::Compute (&values)[kCount]) const {
        for (int i = 0; i < kCount; i += kWidth) stored[(first + i) / kWidth].unpack(values + i);
    }
};

template <class Format, int kWidth, int kOwn>
__device__ __forceinline__ void load_row(const void* data, int64_t at, int columns, int lane,
                                         typename Format::Compute (&values)[kOwn]) {
    StoredRow<Format, kWidth, kOwn> row;
    row.load(data, at, columns, lane);
    row.unpack(0, values);
}

template <class Format, int kWidth, int kOwn>
__device__ __forceinline__ void store_row(void* data, int64_t at, int columns, int lane,
                                          const typename Format::Compute (&values)[kOwn]) {
    for (int k = 0; k < kOwn / kWidth; ++k) {
        Stored<Format, kWidth> stored;
        stored.pack(values + k * kWidth);
        if (has_element<kWidth>(columns, lane, k)) stored.store_shared(data, at + lane + k * kLanes);
    }
}

}  // namespace
}  // namespace fastopt
