// StableAdamW (arXiv 2304.13013): AdamW, whose learning rate is divided by the root mean square of the gradient over
// its second moment where that is above 1.
#pragma once

#include "rules/moments.h"

namespace fastopt {
namespace {

struct StableAdamW {
    static constexpr int states = 2;  // exp_avg_sq, which the first pass reads, and exp_avg
    // The betas are beta * (1 - beta^(t - 1)) / (1 - beta^t), so that the averages need no correction.
    FASTOPT_SCALARS(one_minus_beta1, beta2, one_minus_beta2, eps, weight_decay, lr);

    static constexpr bool measures_param = false;
    static constexpr int measured_states = 1;
    template <class T>
    FASTOPT_HD static T measured(T, T grad, T* state, const Scalars<T>& c) {
        return grad / maximum(square_root(moved_square(state[0], grad, c)), c.eps);
    }

    // The learning rate of the tensor; NaN if a measured value is.
    FASTOPT_HD static double scale(double, double measured_squares, int64_t n, const Scalars<double>& c) {
        return c.lr / maximum(1.0, square_root(measured_squares / double(n)));
    }

    // The decay is skipped if 0, because 0 * inf is NaN.
    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c, T scale) {
        update_moments(state[1], state[0], grad, c);
        const T adam = state[1] / (square_root(state[0]) + c.eps);
        param -= scale * (c.weight_decay != T(0) ? adam + c.weight_decay * param : adam);
    }
};

}  // namespace
}  // namespace fastopt
