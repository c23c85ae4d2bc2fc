// Steps with something around the rule: a monitor's statistics, a cautious update or decay. The rule's own kernel runs
// on copies of one block at a time. So its loop knows nothing of this, and this is compiled once for all rules.
#pragma once

#include "cpu/optim/statistics.h"
#include "rules/caution.h"
#include "rules/factored.h"

namespace fastopt {
namespace {

FASTOPT_HD bool is_hooked(const Task& task) { return task.statistics != nullptr || is_cautious(*task.constants); }

// A rule of one pass, or the last pass of another.
template <class T>
struct RulePass {
    Kernel kernel;
    int states;
    T decay;  // of the parameter, by the prologue or by the rule
    bool writes_param;
};

// A task for the kernel: one block in the compute type, whose gradient is prepared.
template <class T>
class BlockTask {
   public:
    explicit BlockTask(const Task& task) : constants_(*task.constants), task_() {
        const auto prologue =
            Prologue::prepared(round_scalars<Prologue::Scalars, double>(task.constants->prologue).decay);
        __builtin_memcpy(constants_.prologue, &prologue, sizeof prologue);
        constants_.unscales = constants_.masks = constants_.decays_cautiously = false;
        task_.constants = &constants_;
        task_.scratch = task.scratch;
    }
    BlockTask(const BlockTask&) = delete;
    BlockTask& operator=(const BlockTask&) = delete;

    void run(const RulePass<T>& rule, T* param, T* grad, T* const* states, int n) {
        task_.n = n;
        task_.param = {param, kNative<T>};
        task_.grad = {grad, kNative<T>};
        for (int k = 0; k < rule.states; ++k) task_.states[k] = {states[k], kNative<T>};
        rule.kernel(task_, 0, n);
    }

   private:
    Constants constants_;
    Task task_;
};

template <class T>
Caution<T> caution_of(const Task& task, T decay, bool counts) {
    const Constants& constants = *task.constants;
    const bool has_factor = constants.masks && !counts;
    const T factor = has_factor ? T(*ScaledScratch(task.scratch, task.n).scale) : T(1);
    return {decay, factor, constants.masks, constants.decays_cautiously};
}

template <class T>
void apply(const Caution<T>& caution, T* __restrict param, const T* __restrict negated, const T* __restrict grad,
           int n) {
    FASTOPT_VECTORIZE
    for (int i = 0; i < n; ++i) param[i] = caution.updated(param[i], negated[i], grad[i]);
}

template <class T>
int count_agreeing(const T* __restrict negated, const T* __restrict grad, int n) {
    int count = 0;
    FASTOPT_VECTORIZE
    for (int i = 0; i < n; ++i) count += Caution<T>::agrees(negated[i], grad[i]);
    return count;
}

// `counts`: only counts the elements of the mask, for each chunk, and stores nothing else.
template <class T>
FASTOPT_NOINLINE void hooked_step(const Task& task, int64_t begin, int64_t end, const RulePass<T>& rule, bool counts) {
    const Gradients<T> gradients(task);
    Stored<T> stored(task);
    Statistics<T> statistics(task);
    BlockTask<T> block(task);
    const bool measures = statistics.is_on() && !counts;
    const Caution<T> caution = caution_of(task, rule.decay, counts);
    double* const counted = counts ? ScaledScratch(task.scratch, task.n).first_sums : nullptr;
    const int64_t ahead = machine.ahead / int64_t(sizeof(T));
    int64_t agreeing = 0;
    alignas(64) T param_buffer[kMostStored], grad_buffer[kMostStored], negated[kMostStored];
    alignas(64) T state_buffers[kMaxStates][kMostStored];

    for (int64_t at = begin; at < end; at += kMostStored) {
        const int n = int(end - at < kMostStored ? end - at : kMostStored);
        prefetch_ahead<true, true, kMostStored>(task, 0, rule.states, at, end, ahead);
        T* const param = stored.load_param(at, n, param_buffer);
        T* const grad = gradients.prepare(param, at, n, grad_buffer, !counts);
        T* states[kMaxStates];
        for (int k = 0; k < rule.states; ++k) {
            states[k] = stored.load_state(k, at, n, state_buffers[k]);
            if (!counts || states[k] == state_buffers[k]) continue;
            __builtin_memcpy(state_buffers[k], states[k], static_cast<size_t>(n) * sizeof(T));
            states[k] = state_buffers[k];
        }
        if (measures) statistics.before(param, n);
        if (caution.is_on())
            for (int i = 0; i < n; ++i) negated[i] = kNoParameter<T>;
        block.run(rule, caution.is_on() ? negated : param, grad, states, n);
        const bool ends_chunk = at + n == end || (at + n) % kSumChunk == 0;
        if (counts) {
            agreeing += count_agreeing(negated, grad, n);
            if (ends_chunk) counted[at / kSumChunk] = double(agreeing);
            if (ends_chunk) agreeing = 0;
            continue;
        }
        if (caution.is_on()) apply(caution, param, negated, grad, n);
        if (rule.writes_param) stored.store_param(at, n, param);
        stored.store_states(rule.states, at, n, states);
        if (!measures) continue;
        statistics.after(stored, at, n, param, param_buffer, grad_buffer);
        if (ends_chunk) statistics.finish(at / kSumChunk);
    }
}

// Makes the factor of the updates from the counts.
void combine_counts(const Task& task) {
    const ScaledScratch scratch(task.scratch, task.n);
    *scratch.scale = Caution<double>::factor_of(sum(scratch.first_sums, scratch.parts), task.n);
}

}  // namespace
}  // namespace fastopt
