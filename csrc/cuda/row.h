// Rows of at most 256 elements in a warp's registers: lane l has the elements l, l + 32, ...
#pragma once

#include "cuda/memory.h"
#include "math/sums.h"
#include "rules/factored.h"

namespace fastopt {
namespace {

constexpr int kRowSteps = kTileColumns / kLanes;  // elements per lane

// Loads a row that begins at `data` + `at`. Elements beyond `columns` are zeros.
template <class Format, int kSteps>
__device__ __forceinline__ void load_row(const void* data, int64_t at, int columns, int lane,
                                         typename Format::Compute (&values)[kSteps]) {
    using Storage = typename Format::Storage;
    const Storage* const row = static_cast<const Storage*>(data) + at;
    Storage stored[kSteps] = {};
    for (int k = 0; k < kSteps; ++k)
        if (lane + k * kLanes < columns) stored[k] = row[lane + k * kLanes];
    for (int k = 0; k < kSteps; ++k) values[k] = Format::load(stored[k]);
}

template <class Format>
__device__ __forceinline__ void store_row(void* data, int64_t at, int columns, int lane,
                                          const typename Format::Compute (&values)[kRowSteps]) {
    using Storage = typename Format::Storage;
    Storage* const row = static_cast<Storage*>(data) + at;
    for (int k = 0; k < kRowSteps; ++k)
        if (lane + k * kLanes < columns) row[lane + k * kLanes] = Format::store(values[k]);
}

}  // namespace
}  // namespace fastopt
