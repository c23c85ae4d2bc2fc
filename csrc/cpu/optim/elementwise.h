// A pass over elements: load, prologue, rule, store, over blocks that stay in L1.
#pragma once

#include "cpu/block.h"
#include "cpu/machine.h"
#include "cpu/optim/hooked.h"
#include "rules/factored.h"
#include "rules/kinds.h"

namespace fastopt {
namespace {

// The numbers of a task, each rounded once.
template <class T>
struct TaskScalars {
    const Task& task;

    FASTOPT_HD Prologue::Scalars<T> prologue() const {
        return round_scalars<Prologue::Scalars, T>(task.constants->prologue);
    }
    template <class Rule>
    FASTOPT_HD typename Rule::template Scalars<T> rule() const {
        return round_scalars<Rule::template Scalars, T>(task.constants->rule);
    }
    FASTOPT_HD T scale() const { return T(*ScaledScratch(task.scratch, task.n).scale); }
};

template <class Kind, class T>
FASTOPT_HD void update_block(T* __restrict param, const T* __restrict grad, T* const* states, int n,
                             const typename Kind::template Constants<T>& constants) {
    constexpr int rows = Kind::states > 0 ? Kind::states : 1;
    T* state_rows[rows];
    for (int k = 0; k < Kind::states; ++k) state_rows[k] = states[k];
    FASTOPT_VECTORIZE
    for (int i = 0; i < n; ++i) {
        T state[rows];
        for (int k = 0; k < Kind::states; ++k) state[k] = state_rows[k][i];
        T value = param[i];
        Kind::update(value, Kind::reads_grad ? grad[i] : T(0), state, constants);
        if (Kind::writes_param) param[i] = value;
        for (int k = 0; k < Kind::states; ++k) state_rows[k][i] = state[k];
    }
}

// Elements of a block here: few enough that a core still divides for one while it converts the next.
constexpr int kShortBlock = 128;
static_assert(kShortBlock % kFour == 0, "what decode() fills");

template <class Kind, class T, int kFirstState = 0>
FASTOPT_HD void prefetch_ahead(const Task& task, int64_t at, int64_t end, int64_t ahead) {
    prefetch_ahead<Kind::reads_param, Kind::reads_grad, kShortBlock>(task, kFirstState, Kind::states, at, end, ahead);
}

template <class Kind, class T>
void step(const Task& task, int64_t begin, int64_t end);

// The rule for hooked_step().
template <class Kind, class T>
FASTOPT_HD RulePass<T> rule_pass(const typename Kind::template Constants<T>& constants) {
    if constexpr (Kind::may_be_cautious) return {step<Kind, T>, Kind::states, Kind::decay(constants), true};
    return {step<Kind, T>, Kind::states, T(1), Kind::writes_param};
}

// Loads, prepares the gradient, updates and stores the elements [begin, end) of one parameter, block by block. `Kind`
// is one of rules/kinds.h.
template <class Kind, class T>
void step(const Task& task, int64_t begin, int64_t end) {
    const typename Kind::template Constants<T> constants(TaskScalars<T>{task});
    if (constants.is_identity()) return;
    if constexpr (Kind::reads_grad)
        if (is_hooked(task)) return hooked_step(task, begin, end, rule_pass<Kind, T>(constants), false);
    const Gradients<T> gradients(task);
    Stored<T> stored(task);
    constexpr int rows = Kind::states > 0 ? Kind::states : 1;
    alignas(64) T param_buffer[kShortBlock];
    alignas(64) T grad_buffer[Kind::reads_grad ? kShortBlock : 1];
    alignas(64) T state_buffers[rows][kShortBlock];
    const int64_t ahead = machine.ahead / int64_t(sizeof(T));

    for (int64_t at = begin; at < end; at += kShortBlock) {
        const int n = int(end - at < kShortBlock ? end - at : kShortBlock);
        prefetch_ahead<Kind, T>(task, at, end, ahead);
        T* const param = stored.load_param(at, n, param_buffer);
        const T* grad = nullptr;
        if constexpr (Kind::reads_grad) grad = gradients.prepare(param, at, n, grad_buffer, true);
        T* states[rows];
        for (int k = 0; k < Kind::states; ++k) states[k] = stored.load_state(k, at, n, state_buffers[k]);
        update_block<Kind>(param, grad, states, n, constants);

        if (Kind::writes_param) stored.store_param(at, n, param);
        stored.store_states(Kind::states, at, n, states);
    }
}

// The first pass of a cautious update.
template <class Kind, class T>
void count_agreeing(const Task& task, int64_t begin, int64_t end) {
    const typename Kind::template Constants<T> constants(TaskScalars<T>{task});
    hooked_step(task, begin, end, rule_pass<Kind, T>(constants), true);
}

}  // namespace
}  // namespace fastopt
