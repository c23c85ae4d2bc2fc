// NAdam: Adam with Nesterov's momentum (Dozat, ICLR workshop 2016).
#pragma once

#include "rules/moments.h"

namespace fastopt {
namespace {

struct NAdam {
    static constexpr int states = 2;  // exp_avg, exp_avg_sq
    // grad_step: lr * (1 - mu_t) / (1 - mu_1 ... mu_t); momentum_step: lr * mu_{t+1} / (1 - mu_1 ... mu_{t+1});
    // root_correction: 1 / sqrt(1 - beta2^t)
    FASTOPT_SCALARS(one_minus_beta1, beta2, one_minus_beta2, grad_step, momentum_step, root_correction, eps);

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c) {
        T& exp_avg = state[0];
        T& exp_avg_sq = state[1];
        update_moments(exp_avg, exp_avg_sq, grad, c);
        const T direction = c.grad_step * grad + c.momentum_step * exp_avg;
        param -= direction / (square_root(exp_avg_sq) * c.root_correction + c.eps);
    }
};

}  // namespace
}  // namespace fastopt
