// Adan: averages of the gradient, of its change since the step before, and of their squares (arXiv 2208.06677).
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

struct Adan {
    static constexpr int states = 4;  // exp_avg, exp_avg_diff, exp_avg_sq, neg_pre_grad
    // first: 1 in the first step, which has no gradient before it. step_size: lr / (1 - beta1^t);
    // diff_step: lr * beta2 / (1 - beta2^t); root_correction: 1 / sqrt(1 - beta3^t);
    // shrink: 1 / (1 + lr * weight_decay) where the decay comes after the step
    FASTOPT_SCALARS(first, one_minus_beta1, beta2, one_minus_beta2, beta3, one_minus_beta3, step_size, diff_step,
                    root_correction, eps, shrink);

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c) {
        T& exp_avg = state[0];
        T& exp_avg_diff = state[1];
        T& exp_avg_sq = state[2];
        T& neg_pre_grad = state[3];
        const T diff = c.first != T(0) ? T(0) : grad + neg_pre_grad;
        const T ahead = grad + c.beta2 * diff;
        exp_avg = lerp(exp_avg, grad, c.one_minus_beta1);
        exp_avg_diff = lerp(exp_avg_diff, diff, c.one_minus_beta2);
        exp_avg_sq = c.beta3 * exp_avg_sq + (c.one_minus_beta3 * ahead) * ahead;
        const T direction = c.step_size * exp_avg + c.diff_step * exp_avg_diff;
        param = c.shrink * (param - direction / (square_root(exp_avg_sq) * c.root_correction + c.eps));
        neg_pre_grad = -grad;
    }
};

}  // namespace
}  // namespace fastopt
