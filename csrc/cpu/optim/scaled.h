// Rules whose update takes one number per tensor, the scale, which is made of the squares of the parameter and of
// something that the rule measures: two passes. The second pass computes the states again, and only then stores them: a
// state in half precision that the first pass had stored would come back rounded, and give another update.
#pragma once

#include "cpu/optim/elementwise.h"
#include "cpu/reductions.h"

namespace fastopt {
namespace {

// Computes the scale from the squares of all parts of the tensor.
template <class Rule>
void combine_scale(const Task& task, const StepScratch& scratch) {
    *scratch.scale =
        Rule::scale(sum(scratch.param_squares, scratch.parts), sum(scratch.measured_squares, scratch.parts), task.n,
                    round_scalars<Rule::template Scalars, double>(task.constants->rule));
}

template <class Rule>
struct Scaled : Rule {
    static constexpr bool factored = false;

    template <class T>
    static void measure(const Task& task, int64_t begin, int64_t end) {
        const Gradients<T> gradients(task);
        const Stored<T> stored(task);
        const auto c = TaskScalars<T>{task}.template rule<Rule>();
        const ScaledScratch scratch(task.scratch, task.n);
        using Kind = ScaledMeasure<Rule>;
        constexpr int rows = Kind::states > 0 ? Kind::states : 1;
        const bool reads_param = Kind::reads_param || Prologue::penalizes(gradients.common);
        const int64_t ahead = machine.ahead / int64_t(sizeof(T));
        alignas(64) T param_buffer[kShortBlock], grad_buffer[kShortBlock], values[kShortBlock];
        alignas(64) T state_buffers[rows][kShortBlock];
        alignas(64) double param_lanes[kLanes], measured_lanes[kLanes];
        for (int64_t chunk = begin; chunk < end; chunk += kSumChunk) {
            const int64_t chunk_end = end - chunk < kSumChunk ? end : chunk + kSumChunk;
            clear(param_lanes, kLanes);
            clear(measured_lanes, kLanes);
            for (int64_t at = chunk; at < chunk_end; at += kShortBlock) {
                const int n = int(chunk_end - at < kShortBlock ? chunk_end - at : kShortBlock);
                prefetch_ahead<Kind, T>(task, at, end, ahead);
                const T* const param = reads_param ? stored.load_param(at, n, param_buffer) : nullptr;
                const T* const grad = gradients.prepare(param, at, n, grad_buffer, false);
                const T* states[rows];
                for (int k = 0; k < Kind::states; ++k) states[k] = stored.load_state(k, at, n, state_buffers[k]);
                FASTOPT_VECTORIZE
                for (int i = 0; i < n; ++i) {
                    T state[rows];
                    for (int k = 0; k < Kind::states; ++k) state[k] = states[k][i];
                    values[i] = Rule::measured(Kind::reads_param ? param[i] : T(0), grad[i], state, c);
                }
                if (Kind::reads_param) gather_squares(param_lanes, param, n, kNothing);
                gather_squares(measured_lanes, values, n, kNothing);
            }
            scratch.param_squares[chunk / kSumChunk] = merge(param_lanes, kPlus);
            scratch.measured_squares[chunk / kSumChunk] = merge(measured_lanes, kPlus);
        }
    }

    static void combine(const Task& task) { combine_scale<Rule>(task, ScaledScratch(task.scratch, task.n)); }

    static constexpr int pass_count = 2;
    template <class T>
    static constexpr Pass passes[pass_count] = {{measure<T>, combine}, {step<ScaledApply<Rule>, T>, nullptr}};
};

}  // namespace
}  // namespace fastopt
