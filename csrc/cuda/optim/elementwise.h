// Rules of one pass on a device: a thread loads 16 bytes of every operand, prologue, rule, and stores them again.
#pragma once

#include <vector>

#include "cuda/memory.h"
#include "cuda/optim/scalars.h"
#include "cuda/optim/tensors.h"

namespace fastopt::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 2;  // of a multiprocessor, at least; without a bound the compiler saves registers and spills

// Elements of a block: enough to make up for its start, few enough for all to end together.
constexpr int64_t kPart = 8192;

// What happens to one element, for each kind of rule. `unscales`: the gradient is written, too; `rests`: nothing is.
// `arrays` are those of the tensor, in the order of Places.

template <class Rule>
struct OnePass {
    static constexpr int states = Rule::states;
    static constexpr bool reads_grad = true, reads_scratch = false;

    template <class T>
    struct Constants : Gradients<T> {
        typename Rule::template Scalars<T> own;
        static constexpr bool rests = false;

        __device__ __forceinline__ Constants(const ScalarSet& set, void* const*)
            : Gradients<T>(set), own(scalars_from<Rule::template Scalars>(rule_of<T>(set))) {}
    };

    template <class T>
    __device__ __forceinline__ static void update(T& param, T& grad, T* state, const Constants<T>& c) {
        c.unscale(&grad, 1);
        T prepared = grad;
        Prologue::gradient(&param, &prepared, 1, c.common);
        param = Prologue::decayed(param, c.common);
        Rule::update(param, prepared, state, c.own);
    }
};

template <class Rule>
struct StateOnly {
    static constexpr int states = Rule::states;
    static constexpr bool reads_grad = false, reads_scratch = false;

    template <class T>
    struct Constants {
        typename Rule::template Scalars<T> own;
        static constexpr bool unscales = false, rests = false;

        __device__ __forceinline__ Constants(const ScalarSet& set, void* const*)
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
    static constexpr bool reads_grad = false, reads_scratch = false;

    template <class T>
    struct Constants {
        Prologue::Scalars<T> common;
        static constexpr bool unscales = false;
        bool rests;

        __device__ __forceinline__ Constants(const ScalarSet& set, void* const*)
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
    static constexpr int scratch = states + Rule::states;
    static constexpr int count = scratch + Rule::reads_scratch;
};

// At least one, as there are no arrays of none.
template <class Rule>
constexpr int kRows = Rule::states > 0 ? Rule::states : 1;

// Some elements of all operands on their way through the rule.
template <class Rule, class T, int kCount>
struct ThreadElements {
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
    const BlockSpan span = span_of_block(tensors, kPart);
    const ScalarSet& set = *tensors.scalars[span.tensor];
    void* const* const arrays = tensors.arrays[span.tensor];
    const DType* const types = tensors.types[span.tensor];
    const typename Rule::template Constants<T> constants(set, arrays);
    if (set.skip != 0 || constants.rests) return;
    for (int64_t first = span.begin + threadIdx.x; first < span.end; first += kCount * kThreads) {
        ThreadElements<Rule, T, kCount> elements{};
        const auto each = [&](auto visit) {
            for (int i = 0; i < kCount; ++i)
                if (first + i * kThreads < span.end) visit(first + i * kThreads, i);
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
    const BlockSpan span = span_of_block(tensors, kPart);
    const ScalarSet& set = *tensors.scalars[span.tensor];
    void* const* const arrays = tensors.arrays[span.tensor];
    const typename Rule::template Constants<T> constants(set, arrays);
    if (set.skip != 0 || constants.rests) return;
    const int64_t vectors_end = span.end - span.end % kWidth;
    for (int64_t at = span.begin + int64_t(threadIdx.x) * kWidth; at < vectors_end; at += kThreads * kWidth) {
        ThreadElements<Rule, T, kWidth> elements;
        load_vector<Format>(arrays[0], at, elements.param);
        if (Rule::reads_grad) load_vector<Format>(arrays[1], at, elements.grad);
        for (int k = 0; k < Rule::states; ++k) load_vector<StateFormat>(arrays[P::states + k], at, elements.states[k]);
        elements.update(constants);
        store_vector<Format>(arrays[0], at, elements.param);
        if (Rule::reads_grad && constants.unscales) store_vector<Format>(arrays[1], at, elements.grad);
        for (int k = 0; k < Rule::states; ++k) store_vector<StateFormat>(arrays[P::states + k], at, elements.states[k]);
    }
    const int64_t at = vectors_end + threadIdx.x;
    if (at >= span.end) return;
    ThreadElements<Rule, T, 1> rest;
    rest.param[0] = load_element<Format>(arrays[0], at);
    if (Rule::reads_grad) rest.grad[0] = load_element<Format>(arrays[1], at);
    for (int k = 0; k < Rule::states; ++k) rest.states[k][0] = load_element<StateFormat>(arrays[P::states + k], at);
    rest.update(constants);
    store_element<Format>(arrays[0], at, rest.param[0]);
    if (Rule::reads_grad && constants.unscales) store_element<Format>(arrays[1], at, rest.grad[0]);
    for (int k = 0; k < Rule::states; ++k) store_element<StateFormat>(arrays[P::states + k], at, rest.states[k][0]);
}

// How a task's operands are stored, as far as there is a kernel for it.
enum Kind { kF32, kF64, kBF16, kBF16WithF32, kF16, kF16WithF32, kOtherF32, kOtherF64, kKinds };

template <class Rule>
Kind kind_of(const Task& task) {
    bool aligned = is_aligned(task.param.data) && is_aligned(task.grad.data), own = true, wide = Rule::states > 0;
    for (int k = 0; k < Rule::states; ++k) {
        aligned &= is_aligned(task.states[k].data);
        own &= task.states[k].type == task.param.type;
        wide &= task.states[k].type == DType::f32;
    }
    const bool f64 = task.param.type == DType::f64;
    if (!aligned || !(own || wide)) return f64 ? kOtherF64 : kOtherF32;
    switch (task.param.type) {
        case DType::f32: return kF32;
        case DType::f64: return kF64;
        case DType::bf16: return own ? kBF16 : kBF16WithF32;
        case DType::f16: return own ? kF16 : kF16WithF32;
    }
    return kOtherF32;
}

template <class Rule>
void fill_arrays(Tensors<Places<Rule>::count>& tensors, int i, const Task& task) {
    const auto set = [&](int k, const Array& array) {
        tensors.arrays[i][k] = array.data;
        tensors.types[i][k] = array.type;
    };
    set(0, task.param);
    if (Rule::reads_grad) set(1, task.grad);
    for (int k = 0; k < Rule::states; ++k) set(Places<Rule>::states + k, task.states[k]);
    if (Rule::reads_scratch) tensors.arrays[i][Places<Rule>::scratch] = task.scratch;
}

// A step of many tensors.
template <class Rule>
struct Elementwise {
    static void update(const Stream& stream, const Task* const* tasks, int count) {
        using P = Places<Rule>;
        using BF16 = Narrow<BFloat16>;
        using F16 = Narrow<Float16>;
        using F32 = Plain<float>;
        using F64 = Plain<double>;
        static constexpr void (*kernels[kKinds])(const Tensors<P::count>) = {
            update_vectors<Rule, F32, F32>,  update_vectors<Rule, F64, F64>, update_vectors<Rule, BF16, BF16>,
            update_vectors<Rule, BF16, F32>, update_vectors<Rule, F16, F16>, update_vectors<Rule, F16, F32>,
            update_elements<Rule, float>,    update_elements<Rule, double>};
        std::vector<const Task*> of_kind[kKinds];
        for (int i = 0; i < count; ++i) of_kind[kind_of<Rule>(*tasks[i])].push_back(tasks[i]);
        for (int kind = 0; kind < kKinds; ++kind) {
            const std::vector<const Task*>& chosen = of_kind[kind];
            for_tables<P::count>(chosen.data(), static_cast<int>(chosen.size()), kPart, fill_arrays<Rule>,
                                 [&](const Tensors<P::count>& tensors, int64_t blocks) {
                                     launch(stream, "update", kernels[kind], {blocks, kThreads}, tensors);
                                 });
        }
    }
};

}  // namespace
}  // namespace fastopt::cuda
