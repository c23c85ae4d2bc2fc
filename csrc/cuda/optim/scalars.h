// Scalars of a step as a kernel reads them, and gradients after the prologue.
#pragma once

#include <cuda_runtime.h>

#include "cuda/engine.h"
#include "rules/prologue.h"

namespace fastopt::cuda {
namespace {

// Whether GradScaler found an inf.
__device__ __forceinline__ bool skips(const DeviceInputs& inputs) {
    return inputs.found_inf != nullptr && *inputs.found_inf != 0;
}

template <template <class> class Scalars, class T>
FASTOPT_HD Scalars<T> scalars_from(const T* values) {
    Scalars<T> scalars;
    __builtin_memcpy(&scalars, __builtin_assume_aligned(values, alignof(ScalarSet)), sizeof scalars);
    return scalars;
}

template <class T>
FASTOPT_HD const T* prologue_of(const ScalarSet& set) {
    if constexpr (sizeof(T) == sizeof(float))
        return set.rounded_prologue;
    else
        return set.prologue;
}

template <class T>
FASTOPT_HD const T* rule_of(const ScalarSet& set) {
    if constexpr (sizeof(T) == sizeof(float))
        return set.rounded_rule;
    else
        return set.rule;
}

// What rules/kinds.h makes its constants from. `scratch`: of a scaled rule; it begins with the scale.
template <class T>
struct SetScalars {
    const ScalarSet& set;
    const double* scratch;

    FASTOPT_HD Prologue::Scalars<T> prologue() const { return scalars_from<Prologue::Scalars>(prologue_of<T>(set)); }
    template <class Rule>
    FASTOPT_HD typename Rule::template Scalars<T> rule() const {
        return scalars_from<Rule::template Scalars>(rule_of<T>(set));
    }
    FASTOPT_HD T scale() const { return T(*scratch); }
};

// The prologue for `n` gradients in a thread's registers: unscales them (they are then also written back), and makes
// of them what a rule reads.
template <class T>
struct Gradients {
    Prologue::Scalars<T> common;
    bool unscales;

    __device__ __forceinline__ explicit Gradients(const ScalarSet& set)
        : common(scalars_from<Prologue::Scalars>(prologue_of<T>(set))), unscales(common.loss_scale != T(1)) {}

    __device__ __forceinline__ void unscale(T* grad, int n) const {
        if (unscales) Prologue::unscale(grad, n, common);
    }

    // Turns gradients from memory into what a rule reads.
    __device__ __forceinline__ void prepare(const T* param, T* grad, int n) const {
        unscale(grad, n);
        Prologue::gradient(param, grad, n, common);
    }
};

}  // namespace
}  // namespace fastopt::cuda
