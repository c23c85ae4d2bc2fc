// The operands of one tensor as rows in a warp's registers (cuda/row.h), all in one format; cuda/optim/kept.h has the
// twin for everything else.
#pragma once

#include "cuda/engine.h"
#include "cuda/row.h"

namespace fastopt::cuda {
namespace {

// `Format`: of the parameter and its gradient. A state has the parameter's type or the compute type.
template <class Format>
struct Typed {
    using Compute = typename Format::Compute;

    void* const* arrays;
    const DType* types;
    int first_state;  // among the arrays

    template <class Table>
    __device__ __forceinline__ Typed(const Table& tensors, int tensor, const ScalarSet&, int first_state_array)
        : arrays(tensors.arrays[tensor]), types(tensors.types[tensor]), first_state(first_state_array) {}

    template <int kSteps>
    __device__ __forceinline__ void load_param(int64_t at, int columns, int lane, Compute (&values)[kSteps]) const {
        load_row<Format>(arrays[0], at, columns, lane, values);
    }
    template <int kSteps>
    __device__ __forceinline__ void load_grad(int64_t at, int columns, int lane, Compute (&values)[kSteps]) const {
        load_row<Format>(arrays[1], at, columns, lane, values);
    }
    template <int kSteps>
    __device__ __forceinline__ void load_state(int k, int64_t at, int columns, int lane,
                                               Compute (&values)[kSteps]) const {
        if (types[first_state + k] != types[0])
            load_row<Plain<Compute>>(arrays[first_state + k], at, columns, lane, values);
        else
            load_row<Format>(arrays[first_state + k], at, columns, lane, values);
    }

    template <int kSteps>
    __device__ __forceinline__ void store_param(int64_t at, int columns, int lane,
                                                const Compute (&values)[kSteps]) const {
        store_row<Format>(arrays[0], at, columns, lane, values);
    }
    template <int kSteps>
    __device__ __forceinline__ void store_grad(int64_t at, int columns, int lane,
                                               const Compute (&values)[kSteps]) const {
        store_row<Format>(arrays[1], at, columns, lane, values);
    }
};

}  // namespace
}  // namespace fastopt::cuda
