// A pass over elements: load, prologue, rule, store, over blocks that stay in L1.
#pragma once

#include "cpu/block.h"
#include "cpu/machine.h"
#include "cpu/optim/statistics.h"
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
        param[i] = value;
        for (int k = 0; k < Kind::states; ++k) state_rows[k][i] = state[k];
    }
}

// Elements of a block here: few enough that a core still divides for one while it converts the next.
constexpr int kShortBlock = 128;
static_assert(kShortBlock % kFour == 0, "what decode() fills");

// Where memory does not come by itself: hardware prefetchers stop at every 4 KiB page, and there are several rows.
// Never past the tile's end: those lines may be in another worker's cache, being written.
template <class Kind, class T, int kFirstState = 0>
FASTOPT_HD void prefetch_ahead(const Task& task, int64_t at, int64_t end, int64_t ahead) {
    if (ahead == 0 || end - at < ahead + kShortBlock) return;
    if (Kind::reads_param) prefetch(task.param, at + ahead, kShortBlock);
    if (Kind::reads_grad) prefetch(task.grad, at + ahead, kShortBlock);
    for (int k = 0; k < Kind::states; ++k) prefetch(task.states[kFirstState + k], at + ahead, kShortBlock);
}

// Loads, prepares the gradient, updates and stores the elements [begin, end) of one parameter, block by block. `Kind`
// is one of rules/kinds.h.
template <class Kind, class T>
void step(const Task& task, int64_t begin, int64_t end) {
    const typename Kind::template Constants<T> constants(TaskScalars<T>{task});
    if (constants.is_identity()) return;
    const Gradients<T> gradients(task);
    Stored<T> stored(task);
    Statistics<T> statistics(task);
    constexpr int rows = Kind::states > 0 ? Kind::states : 1;
    alignas(64) T param_buffer[kShortBlock];
    alignas(64) T grad_buffer[Kind::reads_grad ? kShortBlock : 1];
    alignas(64) T state_buffers[rows][kShortBlock];
    const int64_t ahead = machine.ahead / int64_t(sizeof(T));
    const bool measures = Kind::reads_grad && statistics.is_on();

    for (int64_t at = begin; at < end; at += kShortBlock) {
        const int n = int(end - at < kShortBlock ? end - at : kShortBlock);
        prefetch_ahead<Kind, T>(task, at, end, ahead);
        T* const param = stored.load_param(at, n, param_buffer);
        const T* grad = nullptr;
        if constexpr (Kind::reads_grad) grad = gradients.prepare(param, at, n, grad_buffer, true);
        T* states[rows];
        for (int k = 0; k < Kind::states; ++k) states[k] = stored.load_state(k, at, n, state_buffers[k]);
        if (measures) statistics.before(param, n);
        update_block<Kind>(param, grad, states, n, constants);

        stored.store_param(at, n, param);
        stored.template store_states<Kind::states>(at, n, states);
        if (measures) {
            statistics.after(stored, at, n, param, param_buffer, grad_buffer);
            if (at + n == end || (at + n) % kSumChunk == 0) statistics.finish(at / kSumChunk);
        }
    }
}

}  // namespace
}  // namespace fastopt
