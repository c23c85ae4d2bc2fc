// The operands of one tensor as rows in a warp's registers (cuda/row.h), all in one format; cuda/optim/kept.h has the
// twin for everything else.
#pragma once

#include "cuda/engine.h"
#include "cuda/row.h"

namespace fastopt::cuda {
namespace {

// `Format`: of the parameter and its gradient. A state has the parameter's type or the compute type.
template <class Format, int kThreadWidth = 1>
struct Typed {
    using Compute = typename Format::Compute;
    static constexpr int kWidth = kThreadWidth;  // neighbouring lanes of a thread

    // A thread's elements of a row of the parameter or the gradient.
    using Row = StoredRow<Format, kWidth, kRowSteps * kWidth>;

    void* const* arrays;
    const DType* types;
    int first_state;  // among the arrays

    template <class Table>
    __device__ __forceinline__ Typed(const Table& tensors, int tensor, const ScalarSet&, int first_state_array)
        : arrays(tensors.arrays[tensor]), types(tensors.types[tensor]), first_state(first_state_array) {}

    __device__ __forceinline__ void load_param(int64_t at, int columns, int lane, Row& row) const {
        row.load(arrays[0], at, columns, lane);
    }
    __device__ __forceinline__ void load_grad(int64_t at, int columns, int lane, Row& row) const {
        row.load(arrays[1], at, columns, lane);
    }

    template <int kOwn>
    __device__ __forceinline__ void load_param(int64_t at, int columns, int lane, Compute (&values)[kOwn]) const {
        load_row<Format, kWidth>(arrays[0], at, columns, lane, values);
    }
    template <int kOwn>
    __device__ __forceinline__ void load_grad(int64_t at, int columns, int lane, Compute (&values)[kOwn]) const {
        load_row<Format, kWidth>(arrays[1], at, columns, lane, values);
    }
    template <int kOwn>
    __device__ __forceinline__ void load_state(int k, int64_t at, int columns, int lane,
                                               Compute (&values)[kOwn]) const {
        if (types[first_state + k] != types[0])
            load_row<Plain<Compute>, kWidth>(arrays[first_state + k], at, columns, lane, values);
        else
            load_row<Format, kWidth>(arrays[first_state + k], at, columns, lane, values);
    }

    template <int kOwn>
    __device__ __forceinline__ void store_param(int64_t at, int columns, int lane,
                                                const Compute (&values)[kOwn]) const {
        store_row<Format, kWidth>(arrays[0], at, columns, lane, values);
    }
    template <int kOwn>
    __device__ __forceinline__ void store_grad(int64_t at, int columns, int lane, const Compute (&values)[kOwn]) const {
        store_row<Format, kWidth>(arrays[1], at, columns, lane, values);
    }
};

}  // namespace
}  // namespace fastopt::cuda
