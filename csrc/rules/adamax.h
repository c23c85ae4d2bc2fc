// Adamax: Adam with the infinity norm (arXiv 1412.6980, section 7).
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

struct Adamax {
    static constexpr int states = 2;  // exp_avg, exp_inf
    // step_size: lr / (1 - beta1^t)
    FASTOPT_SCALARS(one_minus_beta1, beta2, step_size, eps);

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c) {
        T& exp_avg = state[0];
        T& exp_inf = state[1];
        exp_avg = lerp(exp_avg, grad, c.one_minus_beta1);
        exp_inf = maximum(c.beta2 * exp_inf, magnitude(grad) + c.eps);
        param -= (c.step_size * exp_avg) / exp_inf;
    }
};

}  // namespace
}  // namespace fastopt
