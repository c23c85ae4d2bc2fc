// AdaBound and AMSBound: Adam with its rate clipped to bounds that close in on SGD's (Luo et al., ICLR 2019).
#pragma once

#include "rules/moments.h"

namespace fastopt {
namespace {

template <bool kAmsbound>
struct AdaBound {
    static constexpr int states = kAmsbound ? 3 : 2;  // exp_avg, exp_avg_sq, max_exp_avg_sq
    // step_size: lr * sqrt(1 - beta2^t) / (1 - beta1^t), so that eps is not bias-corrected
    FASTOPT_SCALARS(one_minus_beta1, beta2, one_minus_beta2, step_size, lower_bound, upper_bound, eps);

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c) {
        T& exp_avg = state[0];
        T& exp_avg_sq = state[1];
        update_moments(exp_avg, exp_avg_sq, grad, c);
        T second = exp_avg_sq;
        if constexpr (kAmsbound) second = state[2] = maximum(state[2], exp_avg_sq);
        const T rate = clamp(c.step_size / (square_root(second) + c.eps), c.lower_bound, c.upper_bound);
        param -= rate * exp_avg;
    }
};

}  // namespace
}  // namespace fastopt
