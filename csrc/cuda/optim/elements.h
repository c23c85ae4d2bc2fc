// Updates of any rule of one pass, element by element: for any types, storage and caution, and for measured steps.
#pragma once

#include "cuda/optim/caution.h"
#include "cuda/optim/kept.h"
#include "cuda/optim/scalars.h"
#include "cuda/optim/statistics.h"
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
    static constexpr int measured = special + 1;
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

template <class Kind, bool kMeasures>
using SpecialTensors = Tensors<kMeasures ? Places<Kind>::measured : Places<Kind>::special>;

// Elements of a block in a measured step, in which a warp has a chunk of the sums.
constexpr int64_t kMeasuredPart = kThreads / kLanes * kSumChunk;

// Any types, any alignment, any storage, any caution: a thread has several elements on their way all the same, kStride
// apart. `counts`: stores nothing but the number of elements that each block's masks keep. `kMeasures`: also leaves
// statistics.
template <class Kind, class T, bool kMeasures>
__global__ void __launch_bounds__(kThreads, kBlocks)
    update_elements(const __grid_constant__ SpecialTensors<Kind, kMeasures> tensors, bool counts) {
    constexpr int kCount = int(4 * sizeof(float) / sizeof(T));  // equal bytes in registers for each type
    constexpr int kStride = kMeasures ? kLanes : kThreads;
    static_assert(kPart % kLanes == 0 && kThreads % kLanes == 0, "a warp has a block of codes");
    BlockSpan span = span_of_block(tensors, kMeasures ? kMeasuredPart : kPart);
    const ScalarSet& set = *tensors.scalars[span.tensor];
    const Kept<T> kept(tensors, span.tensor, set, Places<Kind>::states);
    const typename Kind::template Constants<T> constants(
        SetScalars<T>{set, step_scratch<Kind>(tensors.arrays[span.tensor])});
    const Gradients<T> gradients(set);
    if (set.skip != 0 || constants.is_identity()) return;
    double* const scratch = static_cast<double*>(tensors.arrays[span.tensor][Places<Kind>::scratch]);
    if constexpr (kMeasures) {
        const int64_t begin = chunk_of_warp(span);
        if (begin >= span.end) return;
        span = {span.tensor, begin, end_of_chunk(span, begin)};
    }
    int agreeing = 0;
    Statistics<T> statistics;
    for (int64_t begin = span.begin; begin < span.end; begin += kCount * kStride) {
        const int64_t first = begin + (kMeasures ? threadIdx.x % kLanes : threadIdx.x);
        const auto exists = [&](int i) { return first + i * kStride < span.end; };
        const auto each = [&](auto visit) {
            FASTOPT_UNROLL
            for (int i = 0; i < kCount; ++i)
                if (exists(i)) visit(first + i * kStride, i);
        };
        ThreadElements<Kind, T, kCount> elements{};
        T before[kCount] = {};
        each([&](int64_t at, int i) {
            elements.param[i] = kept.load_param(at);
            before[i] = elements.param[i];
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
            kept.random_rows(first - threadIdx.x % kLanes, kStride, random);
        each([&](int64_t at, int i) {
            if (Kind::writes_param) kept.store_param(at, elements.param[i], random[i]);
            if (Kind::reads_grad && gradients.unscales) kept.store_grad(at, elements.grad[i]);
            if constexpr (kMeasures) {
                statistics.add_gradient(gradients.unscales ? kept.load_grad(at) : elements.grad[i]);
                statistics.add_movement(before[i], kept.kept(at, elements.param[i]));
            }
        });
        FASTOPT_UNROLL
        for (int k = 0; k < Kind::states; ++k) {
            FASTOPT_UNROLL
            for (int i = 0; i < kCount; ++i)
                kept.store_state(k, first + i * kStride, exists(i), elements.states[k][i], random[i]);
        }
    }
    if constexpr (kMeasures) {
        const int64_t part = span.begin / kSumChunk, parts = tiles_along(tensors.n[span.tensor], kSumChunk);
        double* const sums = static_cast<double*>(tensors.arrays[span.tensor][Places<Kind>::special]) + part;
        statistics.leave(sums, parts, threadIdx.x % kLanes == 0,
                         [](int, double lane) { return merge_lanes(lane, Squares::join); });
        return;
    }
    if (counts) leave_count<kThreads / kLanes>(agreeing, scratch + 1 + span.begin / kPart);
}

}  // namespace
}  // namespace fastopt::cuda
