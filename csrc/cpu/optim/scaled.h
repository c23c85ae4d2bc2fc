// Rules whose update takes one number, the scale, which is made of two sums: two passes. Of a scaled rule, the sums are
// over a tensor, of a grouped rule over all tensors of the step. The second pass computes the states again, and only
// then stores them: a state in half precision that the first pass had stored would come back rounded, and give another
// update.
#pragma once

#include "cpu/optim/elementwise.h"
#include "cpu/reductions.h"

namespace fastopt {
namespace {

template <bool kSquares, class T>
FASTOPT_HD void gather_terms(double* __restrict lanes, const T* __restrict values, int n) {
    if constexpr (kSquares)
        gather_squares(lanes, values, n, kNothing);
    else
        gather(lanes, values, n, [](double x) { return x; }, kPlus);
}

// The first pass: the two sums of each part of the tensor.
template <class Rule, template <class> class Measure, class T>
void measure(const Task& task, int64_t begin, int64_t end) {
    const Gradients<T> gradients(task);
    const Stored<T> stored(task);
    const auto c = TaskScalars<T>{task}.template rule<Rule>();
    const ScaledScratch scratch(task.scratch, task.n);
    using Kind = Measure<Rule>;
    constexpr int rows = Kind::states > 0 ? Kind::states : 1;
    constexpr bool makes_first = !Kind::first_is_param;
    const bool reads_param = Kind::reads_param || Prologue::penalizes(gradients.common);
    const int64_t ahead = machine.ahead / int64_t(sizeof(T));
    alignas(64) T param_buffer[kShortBlock], grad_buffer[kShortBlock], values[kShortBlock];
    alignas(64) T first_values[makes_first ? kShortBlock : 1];
    alignas(64) T state_buffers[rows][kShortBlock];
    alignas(64) double first_lanes[kLanes], second_lanes[kLanes];
    for (int64_t chunk = begin; chunk < end; chunk += kSumChunk) {
        const int64_t chunk_end = end - chunk < kSumChunk ? end : chunk + kSumChunk;
        clear(first_lanes, kLanes);
        clear(second_lanes, kLanes);
        for (int64_t at = chunk; at < chunk_end; at += kShortBlock) {
            const int n = int(chunk_end - at < kShortBlock ? chunk_end - at : kShortBlock);
            prefetch_ahead<Kind, T, Kind::first_state>(task, at, end, ahead);
            const T* const param = reads_param ? stored.load_param(at, n, param_buffer) : nullptr;
            const T* const grad = gradients.prepare(param, at, n, grad_buffer, false);
            const T* states[rows];
            for (int k = 0; k < Kind::states; ++k)
                states[k] = stored.load_state(Kind::first_state + k, at, n, state_buffers[k]);
            FASTOPT_VECTORIZE
            for (int i = 0; i < n; ++i) {
                T state[rows], first;
                for (int k = 0; k < Kind::states; ++k) state[k] = states[k][i];
                Kind::measure(Kind::reads_param ? param[i] : T(0), grad[i], state, c, first, values[i]);
                if constexpr (makes_first) first_values[i] = first;
            }
            if (Kind::reads_param) gather_terms<Kind::squares>(first_lanes, makes_first ? first_values : param, n);
            gather_terms<Kind::squares>(second_lanes, values, n);
        }
        scratch.first_sums[chunk / kSumChunk] = merge(first_lanes, kPlus);
        scratch.second_sums[chunk / kSumChunk] = merge(second_lanes, kPlus);
    }
}

// Computes the scale from the squares of all parts of the tensor.
template <class Rule>
void combine_scale(const Task& task, const StepScratch& scratch) {
    *scratch.scale = Rule::scale(sum(scratch.first_sums, scratch.parts), sum(scratch.second_sums, scratch.parts),
                                 task.n, round_scalars<Rule::template Scalars, double>(task.constants->rule));
}

template <class Rule>
struct Scaled : Rule {
    static constexpr bool factored = false;

    static void combine(const Task& task) { combine_scale<Rule>(task, ScaledScratch(task.scratch, task.n)); }

    static constexpr int pass_count = 2;
    static constexpr JoinGroup join_group = nullptr;
    template <class T>
    static constexpr Pass passes[pass_count] = {{measure<Rule, ScaledMeasure, T>, combine},
                                                {step<ScaledApply<Rule>, T>, nullptr}};
};

template <class Rule>
struct Grouped : Rule {
    static constexpr bool factored = false;

    // The sums of the tensors are summed like those of the parts of one.
    static void join_group(const Task* const* tasks, int64_t count) {
        double *const sums = tasks[0]->sums, *const shared = tasks[0]->shared;
        const auto scalars = [&](int64_t i) {
            return round_scalars<Rule::template Scalars, double>(tasks[i]->constants->rule);
        };
        for (int64_t i = 0; i < count; ++i) {
            const ScaledScratch scratch(tasks[i]->scratch, tasks[i]->n);
            sums[i] = Rule::weighted(sum(scratch.first_sums, scratch.parts), shared, scalars(i));
            sums[count + i] = sum(scratch.second_sums, scratch.parts);
        }
        const double scale = Rule::scale(sum(sums, count), sum(sums + count, count), shared, scalars(0));
        for (int64_t i = 0; i < count; ++i) *ScaledScratch(tasks[i]->scratch, tasks[i]->n).scale = scale;
    }

    static constexpr int pass_count = 2;
    template <class T>
    static constexpr Pass passes[pass_count] = {{measure<Rule, GroupedMeasure, T>, nullptr},
                                                {step<GroupedApply<Rule>, T>, nullptr}};
};

}  // namespace
}  // namespace fastopt
