// RAdam: Adam with a rectified variance (arXiv 1908.03265).
#pragma once

#include "rules/moments.h"

namespace fastopt {
namespace {

struct RAdam {
    static constexpr int states = 2;  // exp_avg, exp_avg_sq
    // rectified: 0 while the variance is not tractable. step_size: lr / (1 - beta1^t); once rectified, also times the
    // rectification and sqrt(1 - beta2^t)
    FASTOPT_SCALARS(one_minus_beta1, beta2, one_minus_beta2, step_size, rectified, eps);

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c) {
        T& exp_avg = state[0];
        T& exp_avg_sq = state[1];
        update_moments(exp_avg, exp_avg_sq, grad, c);
        const T root = square_root(exp_avg_sq) + c.eps;
        param -= (c.step_size * exp_avg) / (c.rectified != T(0) ? root : T(1));
    }
};

}  // namespace
}  // namespace fastopt
