// Lion: the sign of an interpolated momentum (arXiv 2302.06675).
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

struct Lion {
    static constexpr int states = 1;  // exp_avg
    FASTOPT_SCALARS(lr, beta1, one_minus_beta1, beta2, one_minus_beta2);

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c) {
        T& exp_avg = state[0];
        param -= c.lr * sign(c.beta1 * exp_avg + c.one_minus_beta1 * grad);
        exp_avg = c.beta2 * exp_avg + c.one_minus_beta2 * grad;
    }
};

}  // namespace
}  // namespace fastopt
