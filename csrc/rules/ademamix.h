// AdEMAMix: Adam with a second, much slower average of the gradient (arXiv 2409.03137).
#pragma once

#include "rules/moments.h"

namespace fastopt {
namespace {

struct AdEMAMix {
    static constexpr int states = 3;  // exp_avg_fast, exp_avg_slow, exp_avg_sq
    // fast_step: lr / (1 - beta1^t); slow_step: lr * alpha_t, as the slow average is not corrected;
    // root_correction: 1 / sqrt(1 - beta2^t)
    FASTOPT_SCALARS(one_minus_beta1, beta2, one_minus_beta2, one_minus_beta3, fast_step, slow_step, root_correction,
                    eps);

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c) {
        T& exp_avg_fast = state[0];
        T& exp_avg_slow = state[1];
        T& exp_avg_sq = state[2];
        update_moments(exp_avg_fast, exp_avg_sq, grad, c);
        exp_avg_slow = lerp(exp_avg_slow, grad, c.one_minus_beta3);
        const T direction = c.fast_step * exp_avg_fast + c.slow_step * exp_avg_slow;
        param -= direction / (square_root(exp_avg_sq) * c.root_correction + c.eps);
    }
};

}  // namespace
}  // namespace fastopt
