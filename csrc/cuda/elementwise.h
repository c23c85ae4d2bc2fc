// Rules of one pass on a device: a thread loads 16 bytes of every operand, prologue, rule, and stores them again.
#pragma once

#include <vector>

#include "memory.h"
#include "scalars.h"
#include "tensors.h"

namespace fastopt::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kPart =
    8192;  // elements of a block: enough to make up for its start, few enough for all to end together

// What happens to one element, for each kind of rule. `unscales`: the gradient is written, too. `arrays` are those of
// the tensor, in the order of Places.

template <class Rule>
struct OnePass {
    static constexpr int states = Rule::states;
    static constexpr bool reads_grad = true, reads_scratch = false;

    template <class T>
    struct Constants : Gradients<T> {
        typename Rule::template Scalars<T> own;

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
struct Gradientless {
    static constexpr int states = Rule::states;
    static constexpr bool reads_grad = false, reads_scratch = false;

    template <class T>
    struct Constants {
        typename Rule::template Scalars<T> own;
        static constexpr bool unscales = false;

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

        __device__ __forceinline__ Constants(const ScalarSet& set, void* const*)
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
    static constexpr int scratch = states + Rule::states;
    static constexpr int count = scratch + Rule::reads_scratch;
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
    void* const* const arrays = tensors.arrays[part.tensor];
    const typename Rule::template Constants<T> constants(set, arrays);
    for (int64_t at = part.begin + threadIdx.x; at < part.end; at += kThreads)
        update_element<Rule, T>(arrays, tensors.types[part.tensor], at, constants);
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
    void* const* const arrays = tensors.arrays[part.tensor];
    const typename Rule::template Constants<T> constants(set, arrays);
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
