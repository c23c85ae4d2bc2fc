// Rules of one pass on a device: a thread loads 16 bytes of every operand, prologue, rule, and stores them again.
#pragma once

#include "../rules/prologue.h"
#include "memory.h"
#include "tensors.h"

namespace fastopt::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 2;  // of a multiprocessor, at least; without a bound the compiler saves registers and spills
constexpr int64_t kPart =
    8192;  // elements of a block: enough to make up for its start, few enough for all to end together

template <template <class> class Scalars, class T>
FASTOPT_HD Scalars<T> scalars_from(const T* values) {
    Scalars<T> scalars;
    __builtin_memcpy(&scalars, __builtin_assume_aligned(values, alignof(ScalarSet)), sizeof scalars);
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

// What happens to one element, for each kind of rule. `unscales`: the gradient is written, too; `rests`: nothing is.

template <class Rule>
struct OnePass {
    static constexpr int states = Rule::states;
    static constexpr bool reads_grad = true;

    template <class T>
    struct Constants {
        Prologue::Scalars<T> common;
        typename Rule::template Scalars<T> own;
        bool unscales;
        static constexpr bool rests = false;

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
        static constexpr bool unscales = false, rests = false;

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
        bool rests;

        __device__ __forceinline__ explicit Constants(const ScalarSet& set)
            : common(scalars_from<Prologue::Scalars>(prologue_of<T>(set))), rests(!Prologue::changes_grad(common)) {}
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

// Some elements of all operands on their way through the rule.
template <class Rule, class T, int kCount>
struct Elements {
    T param[kCount], grad[kCount], states[kRows<Rule>][kCount];

    __device__ __forceinline__ void update(const typename Rule::template Constants<T>& constants) {
        for (int i = 0; i < kCount; ++i) {
            T state[kRows<Rule>];
            for (int k = 0; k < Rule::states; ++k) state[k] = states[k][i];
            Rule::update(param[i], grad[i], state, constants);
            for (int k = 0; k < Rule::states; ++k) states[k][i] = state[k];
        }
    }
};

// Any types, any alignment: a thread has several elements on their way all the same, kThreads apart.
template <class Rule, class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    update_elements(const __grid_constant__ Tensors<Places<Rule>::count> tensors) {
    using P = Places<Rule>;
    constexpr int kCount = 4;
    const Part part = part_of_block(tensors, kPart);
    const ScalarSet& set = *tensors.scalars[part.tensor];
    const typename Rule::template Constants<T> constants(set);
    if (set.skip != 0 || constants.rests) return;
    void* const* const arrays = tensors.arrays[part.tensor];
    const DType* const types = tensors.types[part.tensor];
    for (int64_t first = part.begin + threadIdx.x; first < part.end; first += kCount * kThreads) {
        Elements<Rule, T, kCount> elements{};
        const auto each = [&](auto visit) {
            for (int i = 0; i < kCount; ++i)
                if (first + i * kThreads < part.end) visit(first + i * kThreads, i);
        };
        each([&](int64_t at, int i) {
            elements.param[i] = load_element<T>(arrays[0], types[0], at);
            if (Rule::reads_grad) elements.grad[i] = load_element<T>(arrays[1], types[1], at);
            for (int k = 0; k < Rule::states; ++k)
                elements.states[k][i] = load_element<T>(arrays[P::states + k], types[P::states + k], at);
        });
        elements.update(constants);
        each([&](int64_t at, int i) {
            store_element(arrays[0], types[0], at, elements.param[i]);
            if (Rule::reads_grad && constants.unscales) store_element(arrays[1], types[1], at, elements.grad[i]);
            for (int k = 0; k < Rule::states; ++k)
                store_element(arrays[P::states + k], types[P::states + k], at, elements.states[k][i]);
        });
    }
}

// Parameters and gradients in one format, states in one, all aligned.
template <class Rule, class Format, class StateFormat>
__global__ void __launch_bounds__(kThreads, kBlocks)
    update_vectors(const __grid_constant__ Tensors<Places<Rule>::count> tensors) {
    using T = typename Format::Compute;
    using P = Places<Rule>;
    constexpr int kWidth = int(sizeof(uint4) / sizeof(typename Format::Storage));
    const Part part = part_of_block(tensors, kPart);
    const ScalarSet& set = *tensors.scalars[part.tensor];
    const typename Rule::template Constants<T> constants(set);
    if (set.skip != 0 || constants.rests) return;
    void* const* const arrays = tensors.arrays[part.tensor];
    const int64_t vectors_end = part.end - part.end % kWidth;
    for (int64_t at = part.begin + int64_t(threadIdx.x) * kWidth; at < vectors_end; at += kThreads * kWidth) {
        Elements<Rule, T, kWidth> elements;
        load_vector<Format>(arrays[0], at, elements.param);
        if (Rule::reads_grad) load_vector<Format>(arrays[1], at, elements.grad);
        for (int k = 0; k < Rule::states; ++k) load_vector<StateFormat>(arrays[P::states + k], at, elements.states[k]);
        elements.update(constants);
        store_vector<Format>(arrays[0], at, elements.param);
        if (Rule::reads_grad && constants.unscales) store_vector<Format>(arrays[1], at, elements.grad);
        for (int k = 0; k < Rule::states; ++k) store_vector<StateFormat>(arrays[P::states + k], at, elements.states[k]);
    }
    const int64_t at = vectors_end + threadIdx.x;
    if (at >= part.end) return;
    Elements<Rule, T, 1> rest;
    rest.param[0] = load_element<Format>(arrays[0], at);
    if (Rule::reads_grad) rest.grad[0] = load_element<Format>(arrays[1], at);
    for (int k = 0; k < Rule::states; ++k) rest.states[k][0] = load_element<StateFormat>(arrays[P::states + k], at);
    rest.update(constants);
    store_element<Format>(arrays[0], at, rest.param[0]);
    if (Rule::reads_grad && constants.unscales) store_element<Format>(arrays[1], at, rest.grad[0]);
    for (int k = 0; k < Rule::states; ++k) store_element<StateFormat>(arrays[P::states + k], at, rest.states[k][0]);
}

}  // namespace
}  // namespace fastopt::cuda
