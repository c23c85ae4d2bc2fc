// Adam and AdamW (arXiv 1412.6980, 1711.05101), AMSGrad (openreview ryQu7f-RZ).
#pragma once

#include "rules/moments.h"

namespace fastopt {
namespace {

template <bool kAmsgrad>
struct Adam {
    static constexpr int states = kAmsgrad ? 3 : 2;  // exp_avg, exp_avg_sq, max_exp_avg_sq
    // step_size: lr / (1 - beta1^t); root_correction: 1 / sqrt(1 - beta2^t)
    FASTOPT_SCALARS(one_minus_beta1, beta2, one_minus_beta2, step_size, root_correction, eps);

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c) {
        T& exp_avg = state[0];
        T& exp_avg_sq = state[1];
        update_moments(exp_avg, exp_avg_sq, grad, c);
        T second = exp_avg_sq;
        if constexpr (kAmsgrad) second = state[2] = maximum(state[2], exp_avg_sq);
        param -= (c.step_size * exp_avg) / (square_root(second) * c.root_correction + c.eps);
    }
};

}  // namespace
}  // namespace fastopt
