// Rules of one pass on a device: a thread loads 16 bytes of every operand, prologue, rule, and stores them again.
#pragma once

#include "../rules/prologue.h"
#include "memory.h"
#include "tensors.h"

namespace fastopt::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kPart =
    8192;  // elements of a block: enough to make up for its start, few enough for all to end together

template <template <class> class Scalars, class T>
FASTOPT_HD Scalars<T> scalars_from(const T* values) {
    Scalars<T> scalars;
    __builtin_memcpy(&scalars, values, sizeof scalars);
    return scalars;
}

template <class T>
__device__ __forceinline__ const T* prologue_of(const ScalarSet& set) {
    if constexpr (sizeof(T) == sizeof(float))
        return set.rounded_prologue;
    else
        return set.prologue;
}

template <class T>
__device__ __forceinline__ const T* rule_of(const ScalarSet& set) {
    if constexpr (sizeof(T) == sizeof(float))
        return set.rounded_rule;
    else
        return set.rule;
}

// What happens to one element, for each kind of rule. `changed`: whether the gradient is written, too.

template <class Rule>
struct OnePass {
    static constexpr int states = Rule::states;
    static constexpr bool reads_grad = true;

    template <class T>
    struct Constants {
        Prologue::Scalars<T> common;
        typename Rule::template Scalars<T> own;
        bool unscales;

        __device__ __forceinline__ explicit Constants(const ScalarSet& set)
            : common(scalars_from<Prologue::Scalars>(prologue_of<T>(set))),
              own(scalars_from<Rule::template Scalars>(rule_of<T>(set))),
              unscales(common.loss_scale != T(1)) {}
    };

    template <class T>
    __device__ __forceinline__ static void update(T& param, T& grad, T* state, const Constants<T>& c) {
        T prepared = grad;
        if (c.unscales) {
            Prologue::unscale(&prepared, 1, c.common);
            grad = prepared;
        }
        Prologue::gradient(&param, &prepared, 1, c.common);
        param = Prologue::decayed(param, c.common);
        Rule::update(param, prepared, state, c.own);
    }
};

template <class Rule>
struct Gradientless {
    static constexpr int states = Rule::states;
    static constexpr bool reads_grad = false;

    template <class T>
    struct Constants {
        typename Rule::template Scalars<T> own;
        static constexpr bool unscales = false;

        __device__ __forceinline__ explicit Constants(const ScalarSet& set)
            : own(scalars_from<Rule::template Scalars>(rule_of<T>(set))) {}
    };

    template <class T>
    __device__ __forceinline__ static void update(T& param, T&, T* state, const Constants<T>& c) {
        Rule::update(param, state, c.own);
    }
};

// Gradients themselves, taken as parameters.
struct Clip {
    static constexpr int states = 0;
    static constexpr bool reads_grad = false;

    template <class T>
    struct Constants {
        Prologue::Scalars<T> common;
        static constexpr bool unscales = false;

        __device__ __forceinline__ explicit Constants(const ScalarSet& set)
            : common(scalars_from<Prologue::Scalars>(prologue_of<T>(set))) {}
    };

    template <class T>
    __device__ __forceinline__ static void update(T& param, T&, T*, const Constants<T>& c) {
        Prologue::clip(&param, 1, c.common);
    }
};

// Where the arrays of a tensor are in the table.
template <class Rule>
struct Places {
    static constexpr int states = 1 + Rule::reads_grad;
    static constexpr int count = states + Rule::states;
};

// At least one, as there are no arrays of none.
template <class Rule>
constexpr int kRows = Rule::states > 0 ? Rule::states : 1;

template <class Rule, class T>
__device__ __forceinline__ void update_element(void* const* arrays, const DType* types, int64_t at,
                                               const typename Rule::template Constants<T>& constants) {
    using P = Places<Rule>;
    T param = load_element<T>(arrays[0], types[0], at), grad{}, states[kRows<Rule>];
    if constexpr (Rule::reads_grad) grad = load_element<T>(arrays[1], types[1], at);
    for (int k = 0; k < Rule::states; ++k) states[k] = load_element<T>(arrays[P::states + k], types[P::states + k], at);
    Rule::update(param, grad, states, constants);
    store_element(arrays[0], types[0], at, param);
    if (Rule::reads_grad && constants.unscales) store_element(arrays[1], types[1], at, grad);
    for (int k = 0; k < Rule::states; ++k) store_element(arrays[P::states + k], types[P::states + k], at, states[k]);
}

// Any types, any alignment.
template <class Rule, class T>
__global__ void __launch_bounds__(kThreads)
    update_elements(const __grid_constant__ Tensors<Places<Rule>::count> tensors) {
    const Part part = part_of_block(tensors, kPart);
    const ScalarSet& set = *tensors.scalars[part.tensor];
    if (set.skip != 0) return;
    const typename Rule::template Constants<T> constants(set);
    for (int64_t at = part.begin + threadIdx.x; at < part.end; at += kThreads)
        update_element<Rule, T>(tensors.arrays[part.tensor], tensors.types[part.tensor], at, constants);
}

// Parameters and gradients in one format, states in one, all aligned.
template <class Rule, class Format, class StateFormat>
__global__ void __launch_bounds__(kThreads)
    update_vectors(const __grid_constant__ Tensors<Places<Rule>::count> tensors) {
    using T = typename Format::Compute;
    using P = Places<Rule>;
    constexpr int kWidth = int(sizeof(uint4) / sizeof(typename Format::Storage));
    const Part part = part_of_block(tensors, kPart);
    const ScalarSet& set = *tensors.scalars[part.tensor];
    if (set.skip != 0) return;
    const typename Rule::template Constants<T> constants(set);
    void* const* const arrays = tensors.arrays[part.tensor];
    const int64_t vectors_end = part.end - part.end % kWidth;
    for (int64_t at = part.begin + int64_t(threadIdx.x) * kWidth; at < vectors_end; at += kThreads * kWidth) {
        T param[kWidth], grad[kWidth] = {}, states[kRows<Rule>][kWidth];
        load_vector<Format>(arrays[0], at, param);
        if constexpr (Rule::reads_grad) load_vector<Format>(arrays[1], at, grad);
        for (int k = 0; k < Rule::states; ++k) load_vector<StateFormat>(arrays[P::states + k], at, states[k]);
        for (int i = 0; i < kWidth; ++i) {
            T state[kRows<Rule>];
            for (int k = 0; k < Rule::states; ++k) state[k] = states[k][i];
            Rule::update(param[i], grad[i], state, constants);
            for (int k = 0; k < Rule::states; ++k) states[k][i] = state[k];
        }
        store_vector<Format>(arrays[0], at, param);
        if constexpr (Rule::reads_grad)
            if (constants.unscales) store_vector<Format>(arrays[1], at, grad);
        for (int k = 0; k < Rule::states; ++k) store_vector<StateFormat>(arrays[P::states + k], at, states[k]);
    }
    const int64_t rest = vectors_end + threadIdx.x;
    if (rest < part.end) update_element<Rule, T>(arrays, tensors.types[part.tensor], rest, constants);
}

}  // namespace
}  // namespace fastopt::cuda
