// A pass over elements: load, prologue, rule, store, over blocks that stay in L1.
#pragma once

#include "cpu/block.h"
#include "cpu/machine.h"

namespace fastopt {
namespace {

// What happens to one element, and what it takes besides its operands: of a rule of one pass, that is all of it
// (scaled.h has another).
template <class Rule>
struct OnePass {
    static constexpr int states = Rule::states;

    template <class T>
    struct Constants {
        typename Rule::template Scalars<T> own;

        explicit Constants(const Task& task) : own(round_scalars<Rule::template Scalars, T>(task.constants->rule)) {}
    };

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Prologue::Scalars<T>& common,
                                  const Constants<T>& c) {
        param = Prologue::decayed(param, common);
        Rule::update(param, grad, state, c.own);
    }
};

template <class Rule, class T>
FASTOPT_HD void update_block(T* __restrict param, const T* __restrict grad, T* const* states, int n,
                             const Prologue::Scalars<T>& common, const typename Rule::template Constants<T>& own) {
    constexpr int rows = Rule::states > 0 ? Rule::states : 1;
    T* state_rows[rows];
    for (int k = 0; k < Rule::states; ++k) state_rows[k] = states[k];
    FASTOPT_VECTORIZE
    for (int i = 0; i < n; ++i) {
        T state[rows];
        for (int k = 0; k < Rule::states; ++k) state[k] = state_rows[k][i];
        T value = param[i];
        Rule::update(value, grad[i], state, common, own);
        param[i] = value;
        for (int k = 0; k < Rule::states; ++k) state_rows[k][i] = state[k];
    }
}

// Elements of a block here: few enough that a core still divides for one while it converts the next.
constexpr int kShortBlock = 128;

// Where memory does not come by itself: hardware prefetchers stop at every 4 KiB page, and there are several rows.
// Never past the tile's end: those lines may be in another worker's cache, being written.
template <class T>
FASTOPT_HD void ask_ahead(const Task& task, int states, int64_t at, int64_t end, int64_t ahead) {
    if (ahead == 0 || end - at < ahead + kShortBlock) return;
    prefetch(task.param, at + ahead, kShortBlock);
    prefetch(task.grad, at + ahead, kShortBlock);
    for (int k = 0; k < states; ++k) prefetch(task.states[k], at + ahead, kShortBlock);
}

// load, prologue, rule, store over the elements [begin, end) of one parameter, block by block. `Rule` is OnePass or the
// like.
template <class Rule, class T>
void step(const Task& task, int64_t begin, int64_t end) {
    const Gradients<T> gradients(task);
    const typename Rule::template Constants<T> own(task);
    alignas(64) T param_buffer[kShortBlock];
    alignas(64) T grad_buffer[kShortBlock];
    alignas(64) T state_buffers[Rule::states > 0 ? Rule::states : 1][kShortBlock];
    const int64_t ahead = machine.ahead / int64_t(sizeof(T));

    for (int64_t at = begin; at < end; at += kShortBlock) {
        const int n = int(end - at < kShortBlock ? end - at : kShortBlock);
        ask_ahead<T>(task, Rule::states, at, end, ahead);
        T* param = load(task.param, at, n, param_buffer);
        const T* grad = gradients.prepare(param, at, n, grad_buffer, true);
        T* states[Rule::states > 0 ? Rule::states : 1];
        for (int k = 0; k < Rule::states; ++k) states[k] = load(task.states[k], at, n, state_buffers[k]);
        update_block<Rule>(param, grad, states, n, gradients.common, own);

        store(task.param, at, n, param);
        for (int k = 0; k < Rule::states; ++k) store(task.states[k], at, n, states[k]);
    }
}

// The same for a rule that reads no gradient: no prologue, no decay.
template <class Rule, class T>
void state_only_step(const Task& task, int64_t begin, int64_t end) {
    const auto scalars = round_scalars<Rule::template Scalars, T>(task.constants->rule);
    alignas(64) T param_buffer[kShortBlock];
    alignas(64) T state_buffers[Rule::states][kShortBlock];
    for (int64_t at = begin; at < end; at += kShortBlock) {
        const int n = int(end - at < kShortBlock ? end - at : kShortBlock);
        T* const param = load(task.param, at, n, param_buffer);
        T* states[Rule::states];
        for (int k = 0; k < Rule::states; ++k) states[k] = load(task.states[k], at, n, state_buffers[k]);
        FASTOPT_VECTORIZE
        for (int i = 0; i < n; ++i) {
            T state[Rule::states];
            for (int k = 0; k < Rule::states; ++k) state[k] = states[k][i];
            Rule::update(param[i], state, scalars);
            for (int k = 0; k < Rule::states; ++k) states[k][i] = state[k];
        }
        store(task.param, at, n, param);
        for (int k = 0; k < Rule::states; ++k) store(task.states[k], at, n, states[k]);
    }
}

// Gradients themselves, taken as parameters: the clipping part of the prologue, written back.
template <class T>
void clip(const Task& task, int64_t begin, int64_t end) {
    const auto common = round_scalars<Prologue::Scalars, T>(task.constants->prologue);
    if (!Prologue::changes_grad(common)) return;
    alignas(64) T buffer[kShortBlock];
    for (int64_t at = begin; at < end; at += kShortBlock) {
        const int n = int(end - at < kShortBlock ? end - at : kShortBlock);
        T* const grad = load(task.param, at, n, buffer);
        Prologue::clip(grad, n, common);
        store(task.param, at, n, grad);
    }
}

}  // namespace
}  // namespace fastopt
