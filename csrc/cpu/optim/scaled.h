// Rules that scale their direction by one step size per tensor, which is made of the squares of the parameter and of
// the direction: two passes. The second pass computes the direction again, and only then stores the states: a state
// in half precision that the first pass had stored would come back rounded, and give another direction.
#pragma once

#include "cpu/optim/elementwise.h"
#include "cpu/reductions.h"

namespace fastopt {
namespace {

// Computes the step size from the squares of all parts of the tensor.
template <class Rule>
void combine_step_size(const Task& task, const StepScratch& scratch) {
    *scratch.step_size =
        Rule::step_size(sum(scratch.param_squares, scratch.parts), sum(scratch.direction_squares, scratch.parts),
                        task.n, round_scalars<Rule::template Scalars, double>(task.constants->rule));
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
        const int64_t ahead = machine.ahead / int64_t(sizeof(T));
        alignas(64) T param_buffer[kShortBlock], grad_buffer[kShortBlock], directions[kShortBlock];
        alignas(64) T state_buffers[Rule::states][kShortBlock];
        alignas(64) double param_lanes[kLanes], direction_lanes[kLanes];
        for (int64_t chunk = begin; chunk < end; chunk += kSumChunk) {
            const int64_t chunk_end = end - chunk < kSumChunk ? end : chunk + kSumChunk;
            clear(param_lanes, kLanes);
            clear(direction_lanes, kLanes);
            for (int64_t at = chunk; at < chunk_end; at += kShortBlock) {
                const int n = int(chunk_end - at < kShortBlock ? chunk_end - at : kShortBlock);
                prefetch_ahead<ScaledApply<Rule>, T>(task, at, end, ahead);
                const T* const param = stored.load_param(at, n, param_buffer);
                const T* const grad = gradients.prepare(param, at, n, grad_buffer, false);
                const T* states[Rule::states];
                for (int k = 0; k < Rule::states; ++k) states[k] = stored.load_state(k, at, n, state_buffers[k]);
                FASTOPT_VECTORIZE
                for (int i = 0; i < n; ++i) {
                    T state[Rule::states];
                    for (int k = 0; k < Rule::states; ++k) state[k] = states[k][i];
                    directions[i] = Rule::direction(param[i], grad[i], state, c);
                }
                gather_squares(param_lanes, param, n, kNothing);
                gather_squares(direction_lanes, directions, n, kNothing);
            }
            scratch.param_squares[chunk / kSumChunk] = merge(param_lanes, kPlus);
            scratch.direction_squares[chunk / kSumChunk] = merge(direction_lanes, kPlus);
        }
    }

    static void combine(const Task& task) { combine_step_size<Rule>(task, ScaledScratch(task.scratch, task.n)); }

    static constexpr int pass_count = 2;
    template <class T>
    static constexpr Pass passes[pass_count] = {{measure<T>, combine}, {step<ScaledApply<Rule>, T>, nullptr}};
};

}  // namespace
}  // namespace fastopt
