// Scaled and grouped rules on a device, in the CPU's two passes (cpu/optim/scaled.h).
#pragma once

#include "cuda/optim/elementwise.h"
#include "cuda/optim/passes.h"
#include "cuda/row.h"
#include "cuda/warp.h"

namespace fastopt::cuda {
namespace {

template <class Rule>
using ScaledTensors = Tensors<Places<ScaledApply<Rule>>::count>;

// The scratch memory is a tensor's last array.
template <int kArrays>
__device__ __forceinline__ ScaledScratch scratch_of(const Tensors<kArrays>& tensors, int tensor) {
    return {static_cast<double*>(tensors.arrays[tensor][kArrays - 1]), tensors.n[tensor]};
}

template <int kArrays>
__device__ __forceinline__ int64_t elements_of(const Tensors<kArrays>& tensors, int tensor) {
    return tensors.n[tensor];
}

constexpr int kScaledWarps = 8;

template <class Kind, class T>
__device__ __forceinline__ double term(T value) {
    return Kind::squares ? double(value) * double(value) : double(value);
}

// The two sums of each chunk, which a warp takes.
template <class Rule, class Kind, class Operands>
__global__ void __launch_bounds__(kScaledWarps* kLanes, kBlocks)
    measure_chunks(const __grid_constant__ ScaledTensors<Rule> tensors) {
    using T = typename Operands::Compute;
    constexpr int kSteps = kRowSteps * int(sizeof(float)) / int(sizeof(T));  // equal bytes in registers for each type
    const BlockSpan span = span_of_block(tensors, kScaledWarps * kSumChunk);
    const ScalarSet& set = *tensors.scalars[span.tensor];
    if (set.skip != 0) return;
    const int lane = int(threadIdx.x) % kLanes;
    const int64_t begin = chunk_of_warp(span);
    if (begin >= span.end) return;
    const int64_t end = end_of_chunk(span, begin);
    const Gradients<T> gradients(set);
    const bool reads_param = Kind::reads_param || Prologue::penalizes(gradients.common);
    const auto c = scalars_from<Rule::template Scalars>(rule_of<T>(set));
    const Operands operands(tensors, span.tensor, set, Places<ScaledApply<Rule>>::states);
    double first_sum = 0, second_sum = 0;
    for (int64_t at = begin; at < end; at += kSteps * kLanes) {
        const int count = int(end - at < kSteps * kLanes ? end - at : kSteps * kLanes);
        T param[kSteps] = {}, grad[kSteps], states[kRows<Kind>][kSteps];
        if (reads_param) operands.load_param(at, count, lane, param);
        operands.load_grad(at, count, lane, grad);
        for (int k = 0; k < Kind::states; ++k) operands.load_state(Kind::first_state + k, at, count, lane, states[k]);
        gradients.prepare(param, grad, kSteps);
        for (int i = 0; i < kSteps; ++i) {
            if (lane + i * kLanes >= count) continue;
            T state[kRows<Kind>], first, second;
            for (int k = 0; k < Kind::states; ++k) state[k] = states[k][i];
            Kind::measure(param[i], grad[i], state, c, first, second);
            if (Kind::reads_param) first_sum += term<Kind>(first);
            second_sum += term<Kind>(second);
        }
    }
    first_sum = merge_lanes(first_sum, Squares::join);
    second_sum = merge_lanes(second_sum, Squares::join);
    if (lane != 0) return;
    const ScaledScratch scratch = scratch_of(tensors, span.tensor);
    scratch.first_sums[begin / kSumChunk] = first_sum;
    scratch.second_sums[begin / kSumChunk] = second_sum;
}

template <class Rule>
using StartScaled = Start<ScaledTensors<Rule>>;

template <class Rule>
void fill_scaled(ScaledTensors<Rule>& tensors, int i, const Task& task) {
    fill_arrays<ScaledApply<Rule>>(tensors, i, task);
    tensors.n[i] = task.n;
}

template <class Rule, class Kind, class Operands>
void start_chunks(const Stream& stream, const Tasks& tasks) {
    const auto blocks = [](const Task& task) { return tiles_along(task.n, kScaledWarps * kSumChunk); };
    const StartScaled<Rule> start{stream, tasks, fill_scaled<Rule>};
    start("sums", measure_chunks<Rule, Kind, Operands>, blocks, kScaledWarps * kLanes);
}

template <class Rule>
struct Scaled {
    static void update(const Stream& stream, const Task* const* tasks, int count) {
        for_operands<Measure>(stream, tasks, count);
        Elementwise<ScaledApply<Rule>>::update(stream, tasks, count);
    }

   private:
    template <class Operands>
    struct Measure {
        static void start(const Stream& stream, const Tasks& tasks) {
            start_chunks<Rule, ScaledMeasure<Rule>, Operands>(stream, tasks);
            start_scales<Rule>(StartScaled<Rule>{stream, tasks, fill_scaled<Rule>},
                               [](const Task& task) { return ScaledScratch::parts_of(task.n); });
        }
    };
};

}  // namespace
}  // namespace fastopt::cuda
