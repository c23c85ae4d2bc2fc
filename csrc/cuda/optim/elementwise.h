// Rules of one pass on a device: a thread loads 16 bytes of every operand, prologue, rule, and stores them again.
#pragma once

#include "cuda/optim/caution.h"
#include "cuda/optim/kept.h"
#include "cuda/optim/scalars.h"
#include "cuda/optim/tensors.h"
#include "rules/kinds.h"

namespace fastopt::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 2;  // of a multiprocessor, at least; without a bound the compiler saves registers and spills

// Elements of a block: enough to make up for its start, few enough for all to end together.
constexpr int64_t kPart = 8192;

// Where the arrays of a tensor are in the table.
template <class Kind>
struct Places {
    static constexpr int states = 1 + Kind::reads_grad;
    static constexpr int scratch = states + Kind::states;
    static constexpr int count = scratch + Kind::reads_scratch;
    static constexpr int special = scratch + 1;  // for special tasks, whose updates may be cautious
};

template <class Kind>
__device__ __forceinline__ const double* step_scratch(void* const* arrays) {
    return Kind::reads_scratch ? static_cast<const double*>(arrays[Places<Kind>::scratch]) : nullptr;
}

// At least one, as there are no arrays of none.
template <class Kind>
constexpr int kRows = Kind::states > 0 ? Kind::states : 1;

// Some elements of all operands on their way through the rule.
template <class Kind, class T, int kCount>
struct ThreadElements {
    T param[kCount], grad[kCount], states[kRows<Kind>][kCount];

    __device__ __forceinline__ void update(const Gradients<T>& gradients,
                                           const typename Kind::template Constants<T>& constants) {
        each(gradients, [&](T& own, T prepared, T* state) { Kind::update(own, prepared, state, constants); });
    }

    // The same, where the update or the decay is cautious. Returns how many elements the mask keeps.
    __device__ __forceinline__ int update(const Gradients<T>& gradients,
                                          const typename Kind::template Constants<T>& constants,
                                          const Caution<T>& caution) {
        int agreeing = 0;
        each(gradients, [&](T& own, T prepared, T* state) {
            T value = caution.is_on() ? kNoParameter<T> : own;
            Kind::update(value, prepared, state, constants);
            agreeing += Caution<T>::agrees(value, prepared);
            own = caution.is_on() ? caution.updated(own, value, prepared) : value;
        });
        return agreeing;
    }

   private:
    template <class Update>
    __device__ __forceinline__ void each(const Gradients<T>& gradients, Update update) {
        for (int i = 0; i < kCount; ++i) {
            T state[kRows<Kind>], prepared = T(0);
            for (int k = 0; k < Kind::states; ++k) state[k] = states[k][i];
            if constexpr (Kind::reads_grad) {
                gradients.unscale(&grad[i], 1);
                prepared = grad[i];
                Prologue::gradient(&param[i], &prepared, 1, gradients.common);
            }
            update(param[i], prepared, state);
            for (int k = 0; k < Kind::states; ++k) states[k][i] = state[k];
        }
    }
};

// Any types, any alignment, any storage, any caution: a thread has several elements on their way all the same, kThreads
// apart. `counts`: stores nothing but the number of elements that each block's masks keep.
template <class Kind, class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    update_elements(const __grid_constant__ Tensors<Places<Kind>::special> tensors, bool counts) {
    constexpr int kCount = int(4 * sizeof(float) / sizeof(T));  // equal bytes in registers for each type
    static_assert(kPart % kLanes == 0 && kThreads % kLanes == 0, "a warp has a block of codes");
    const BlockSpan span = span_of_block(tensors, kPart);
    const ScalarSet& set = *tensors.scalars[span.tensor];
    const Kept<T> kept(tensors, span.tensor, set, Places<Kind>::states);
    const typename Kind::template Constants<T> constants(
        SetScalars<T>{set, step_scratch<Kind>(tensors.arrays[span.tensor])});
    const Gradients<T> gradients(set);
    if (set.skip != 0 || constants.is_identity()) return;
    double* const scratch = static_cast<double*>(tensors.arrays[span.tensor][Places<Kind>::scratch]);
    int agreeing = 0;
    for (int64_t begin = span.begin; begin < span.end; begin += kCount * kThreads) {
        const int64_t first = begin + threadIdx.x;
        const auto exists = [&](int i) { return first + i * kThreads < span.end; };
        const auto each = [&](auto visit) {
            FASTOPT_UNROLL
            for (int i = 0; i < kCount; ++i)
                if (exists(i)) visit(first + i * kThreads, i);
        };
        ThreadElements<Kind, T, kCount> elements{};
        each([&](int64_t at, int i) {
            elements.param[i] = kept.load_param(at);
            if (Kind::reads_grad) elements.grad[i] = kept.load_grad(at);
            for (int k = 0; k < Kind::states; ++k) elements.states[k][i] = kept.load_state(k, at);
        });
        if constexpr (Kind::may_be_cautious)
            agreeing +=
                elements.update(gradients, constants, caution_of<T>(set, Kind::decay(constants), scratch, counts));
        else
            elements.update(gradients, constants);
        if (counts) continue;
        uint16_t random[kCount] = {};
        if constexpr (sizeof(T) == sizeof(float))  // double is not rounded at random
            kept.random_rows(first - threadIdx.x % kLanes, kThreads, random);
        each([&](int64_t at, int i) {
            if (Kind::writes_param) kept.store_param(at, elements.param[i], random[i]);
            if (Kind::reads_grad && gradients.unscales) kept.store_grad(at, elements.grad[i]);
        });
        FASTOPT_UNROLL
        for (int k = 0; k < Kind::states; ++k) {
            FASTOPT_UNROLL
            for (int i = 0; i < kCount; ++i)
                kept.store_state(k, first + i * kThreads, exists(i), elements.states[k][i], random[i]);
        }
    }
    if (counts) leave_count<kThreads / kLanes>(agreeing, scratch + 1 + span.begin / kPart);
}

// Parameters and gradients in one format, states in one, all aligned.
template <class Kind, class Format, class StateFormat>
__global__ void __launch_bounds__(kThreads, kBlocks)
    update_vectors(const __grid_constant__ Tensors<Places<Kind>::count> tensors) {
    using T = typename Format::Compute;
    using P = Places<Kind>;
    constexpr int kWidth = int(sizeof(uint4) / sizeof(typename Format::Storage));
    const BlockSpan span = span_of_block(tensors, kPart);
    const ScalarSet& set = *tensors.scalars[span.tensor];
    void* const* const arrays = tensors.arrays[span.tensor];
    const typename Kind::template Constants<T> constants(SetScalars<T>{set, step_scratch<Kind>(arrays)});
    const Gradients<T> gradients(set);
    if (set.skip != 0 || constants.is_identity()) return;
    const int64_t vectors_end = span.end - span.end % kWidth;
    for (int64_t at = span.begin + int64_t(threadIdx.x) * kWidth; at < vectors_end; at += kThreads * kWidth) {
        ThreadElements<Kind, T, kWidth> elements;
        load_vector<Format>(arrays[0], at, elements.param);
        if (Kind::reads_grad) load_vector<Format>(arrays[1], at, elements.grad);
        for (int k = 0; k < Kind::states; ++k) load_vector<StateFormat>(arrays[P::states + k], at, elements.states[k]);
        elements.update(gradients, constants);
        if (Kind::writes_param) store_vector<Format>(arrays[0], at, elements.param);
        if (Kind::reads_grad && gradients.unscales) store_vector<Format>(arrays[1], at, elements.grad);
        for (int k = 0; k < Kind::states; ++k) store_vector<StateFormat>(arrays[P::states + k], at, elements.states[k]);
    }
    const int64_t at = vectors_end + threadIdx.x;
    if (at >= span.end) return;
    ThreadElements<Kind, T, 1> rest;
    rest.param[0] = load_element<Format>(arrays[0], at);
    if (Kind::reads_grad) rest.grad[0] = load_element<Format>(arrays[1], at);
    for (int k = 0; k < Kind::states; ++k) rest.states[k][0] = load_element<StateFormat>(arrays[P::states + k], at);
    rest.update(gradients, constants);
    if (Kind::writes_param) store_element<Format>(arrays[0], at, rest.param[0]);
    if (Kind::reads_grad && gradients.unscales) store_element<Format>(arrays[1], at, rest.grad[0]);
    for (int k = 0; k < Kind::states; ++k) store_element<StateFormat>(arrays[P::states + k], at, rest.states[k][0]);
}

// Combinations of types that have a kernel of their own.
enum Variant { kF32, kF64, kBF16, kBF16WithF32, kF16, kF16WithF32, kOtherF32, kOtherF64, kVariants };

template <class Kind>
Variant variant_of(const Task& task) {
    bool aligned = is_aligned(task.param.data) && is_aligned(task.grad.data), own = true, wide = Kind::states > 0;
    for (int k = 0; k < Kind::states; ++k) {
        aligned &= is_aligned(task.states[k].data);
        own &= task.states[k].type == task.param.type;
        wide &= task.states[k].type == DType::f32;
    }
    const bool f64 = task.param.type == DType::f64;
    if (is_special(task) || !aligned || !(own || wide)) return f64 ? kOtherF64 : kOtherF32;
    switch (task.param.type) {
        case DType::f32: return kF32;
        case DType::f64: return kF64;
        case DType::bf16: return own ? kBF16 : kBF16WithF32;
        case DType::f16: return own ? kF16 : kF16WithF32;
        default: return kOtherF32;
    }
}

template <class Kind, int kArrays>
void fill_arrays(Tensors<kArrays>& tensors, int i, const Task& task) {
    const auto set = [&](int k, const Array& array) {
        tensors.arrays[i][k] = array.data;
        tensors.types[i][k] = array.type;
    };
    set(0, task.param);
    if (Kind::reads_grad) set(1, task.grad);
    for (int k = 0; k < Kind::states; ++k) set(Places<Kind>::states + k, task.states[k]);
    if constexpr (kArrays > Places<Kind>::scratch) tensors.arrays[i][Places<Kind>::scratch] = task.scratch;
}

// A step of many tensors.
template <class Kind>
struct Elementwise {
    static void update(const Stream& stream, const Task* const* tasks, int count) {
        using P = Places<Kind>;
        using BF16 = Narrow<BFloat16>;
        using F16 = Narrow<Float16>;
        using F32 = Plain<float>;
        using F64 = Plain<double>;
        static constexpr void (*kernels[kOtherF32])(const Tensors<P::count>) = {
            update_vectors<Kind, F32, F32>,  update_vectors<Kind, F64, F64>, update_vectors<Kind, BF16, BF16>,
            update_vectors<Kind, BF16, F32>, update_vectors<Kind, F16, F16>, update_vectors<Kind, F16, F32>};
        Tasks of_variant[kVariants];
        for (int i = 0; i < count; ++i) of_variant[variant_of<Kind>(*tasks[i])].push_back(tasks[i]);
        for (int variant = 0; variant < kOtherF32; ++variant)
            start<P::count>(of_variant[variant], [&](const Tensors<P::count>& tensors, int64_t blocks) {
                launch(stream, "update", kernels[variant], {blocks, kThreads}, tensors);
            });
        if constexpr (Kind::may_be_cautious)
            for (const Variant variant : {kOtherF32, kOtherF64}) {
                const Tasks masked = masked_of(of_variant[variant]);
                start_special(stream, variant, masked, true);
                start_factors(stream, masked, kPart);
            }
        for (const Variant variant : {kOtherF32, kOtherF64}) start_special(stream, variant, of_variant[variant], false);
    }

   private:
    template <int kArrays, class Launch>
    static void start(const Tasks& tasks, Launch launch) {
        for_tables<kArrays>(tasks.data(), static_cast<int>(tasks.size()), kPart, fill_arrays<Kind, kArrays>, launch);
    }

    static void start_special(const Stream& stream, Variant variant, const Tasks& tasks, bool counts) {
        constexpr int kArrays = Places<Kind>::special;
        const auto kernel = variant == kOtherF64 ? update_elements<Kind, double> : update_elements<Kind, float>;
        start<kArrays>(tasks, [&](const Tensors<kArrays>& tensors, int64_t blocks) {
            launch(stream, "update", kernel, {blocks, kThreads}, tensors, counts);
        });
    }
};

}  // namespace
}  // namespace fastopt::cuda
