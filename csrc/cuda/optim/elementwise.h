// Rules of one pass on a device: a thread loads 16 bytes of every operand, prologue, rule, and stores them again.
#pragma once

#include "cuda/optim/elements.h"

namespace fastopt::cuda {
namespace {

// Vectors of each operand that a thread loads before it uses the first: rules with few operands would leave too little
// memory under way.
template <class Kind>
constexpr int kVectors = 1 + Kind::reads_grad + Kind::states <= 2 ? 2 : 1;

// Blocks of a multiprocessor, at least: 4 have 64 registers per thread, which rules of up to two states manage with,
// except in float64.
template <class Kind, class T>
constexpr int kBlocksOfVectors = Kind::states <= 2 && sizeof(T) == sizeof(float) ? 4 : kBlocks;

// Parameters and gradients in one format, states in one, all aligned.
template <class Kind, class Format, class StateFormat>
__global__ void __launch_bounds__(kThreads, kBlocksOfVectors<Kind, typename Format::Compute>)
    update_vectors(const __grid_constant__ Tensors<Places<Kind>::count> tensors) {
    using T = typename Format::Compute;
    using P = Places<Kind>;
    constexpr int kWidth = int(sizeof(uint4) / sizeof(typename Format::Storage)), kStep = kThreads * kWidth;
    const BlockSpan span = span_of_block(tensors, kPart);
    const ScalarSet& set = *tensors.scalars[span.tensor];
    void* const* const arrays = tensors.arrays[span.tensor];
    const typename Kind::template Constants<T> constants(SetScalars<T>{set, step_scratch<Kind>(arrays)});
    const Gradients<T> gradients(set);
    if (set.skip != 0 || constants.is_identity()) return;
    const int64_t vectors_end = span.end - span.end % kWidth;
    const int64_t begin = span.begin + int64_t(threadIdx.x) * kWidth;
    for (int64_t first = begin; first < vectors_end; first += kVectors<Kind> * kStep) {
        ThreadElements<Kind, T, kWidth> elements[kVectors<Kind>];
        FASTOPT_UNROLL
        for (int i = 0; i < kVectors<Kind>; ++i) {
            const int64_t at = first + i * kStep < vectors_end ? first + i * kStep : first;
            load_vector<Format>(arrays[0], at, elements[i].param);
            if (Kind::reads_grad) load_vector<Format>(arrays[1], at, elements[i].grad);
            for (int k = 0; k < Kind::states; ++k)
                load_vector<StateFormat>(arrays[P::states + k], at, elements[i].states[k]);
        }
        end_loads();
        FASTOPT_UNROLL
        for (int i = 0; i < kVectors<Kind>; ++i) {
            const int64_t at = first + i * kStep;
            if (at >= vectors_end) break;
            ThreadElements<Kind, T, kWidth>& own = elements[i];
            own.update(gradients, constants);
            if (Kind::writes_param) store_vector<Format>(arrays[0], at, own.param);
            if (Kind::reads_grad && gradients.unscales) store_vector<Format>(arrays[1], at, own.grad);
            for (int k = 0; k < Kind::states; ++k) store_vector<StateFormat>(arrays[P::states + k], at, own.states[k]);
        }
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
enum Variant {
    kF32,
    kF64,
    kBF16,
    kBF16WithF32,
    kF16,
    kF16WithF32,
    kOtherF32,
    kOtherF64,
    kMeasuredF32,
    kMeasuredF64,
    kVariants
};

template <class Kind>
Variant variant_of(const Task& task) {
    bool aligned = is_aligned(task.param.data) && is_aligned(task.grad.data), own = true, wide = Kind::states > 0;
    for (int k = 0; k < Kind::states; ++k) {
        aligned &= is_aligned(task.states[k].data);
        own &= task.states[k].type == task.param.type;
        wide &= task.states[k].type == DType::f32;
    }
    const bool f64 = task.param.type == DType::f64;
    if (task.statistics != nullptr) return f64 ? kMeasuredF64 : kMeasuredF32;
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
    if constexpr (kArrays > Places<Kind>::special) tensors.arrays[i][Places<Kind>::special] = task.statistics;
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
        for (const Variant variant : {kOtherF32, kMeasuredF32})
            start_elements<float>(stream, of_variant[variant], variant == kMeasuredF32);
        for (const Variant variant : {kOtherF64, kMeasuredF64})
            start_elements<double>(stream, of_variant[variant], variant == kMeasuredF64);
    }

   private:
    template <int kArrays, class Launch>
    static void start(const Tasks& tasks, Launch launch, int64_t part = kPart) {
        for_tables<kArrays>(tasks.data(), static_cast<int>(tasks.size()), part, fill_arrays<Kind, kArrays>, launch);
    }

    template <class T>
    static void start_elements(const Stream& stream, const Tasks& tasks, bool measures) {
        if constexpr (Kind::may_be_cautious) {
            const Tasks masked = masked_of(tasks);
            start_special<T, false>(stream, masked, true);
            start_factors(stream, masked, kPart);
        }
        if constexpr (Kind::reads_grad)
            if (measures) return start_special<T, true>(stream, tasks, false);
        start_special<T, false>(stream, tasks, false);
    }

    template <class T, bool kMeasures>
    static void start_special(const Stream& stream, const Tasks& tasks, bool counts) {
        using Table = SpecialTensors<Kind, kMeasures>;
        const auto launch_table = [&](const Table& tensors, int64_t blocks) {
            launch(stream, "update", update_elements<Kind, T, kMeasures>, {blocks, kThreads}, tensors, counts);
        };
        start<kMeasures ? Places<Kind>::measured : Places<Kind>::special>(tasks, launch_table,
                                                                          kMeasures ? kMeasuredPart : kPart);
    }
};

}  // namespace
}  // namespace fastopt::cuda
