// LAMB (arXiv 1904.00962): Adam whose steps are scaled by the norm of their tensor.
#pragma once

#include "rules/moments.h"

namespace fastopt {
namespace {

struct Lamb {
    static constexpr int states = 2;  // exp_avg, exp_avg_sq
    // correction: 1 / (1 - beta1^t); root_correction: 1 / sqrt(1 - beta2^t); adapts: 1, or 0 for the trust ratio 1
    FASTOPT_SCALARS(one_minus_beta1, beta2, one_minus_beta2, correction, root_correction, eps, weight_decay, lr,
                    adapts);

    // The direction includes the decay, so that its norm does too. The decay is skipped if 0, because 0 * inf is NaN.
    static constexpr bool measures_param = true;
    static constexpr int measured_states = states;
    template <class T>
    FASTOPT_HD static T measured(T param, T grad, T* state, const Scalars<T>& c) {
        update_moments(state[0], state[1], grad, c);
        const T adam = (c.correction * state[0]) / (square_root(state[1]) * c.root_correction + c.eps);
        return c.weight_decay != T(0) ? adam + c.weight_decay * param : adam;
    }

    // lr times the trust ratio, which is 1 if either norm is 0 or NaN.
    FASTOPT_HD static double scale(double param_squares, double direction_squares, int64_t, const Scalars<double>& c) {
        const bool adapts = c.adapts != 0 && param_squares > 0 && direction_squares > 0;
        return adapts ? c.lr * (square_root(param_squares) / square_root(direction_squares)) : c.lr;
    }

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c, T scale) {
        param -= scale * measured(param, grad, state, c);
    }
};

}  // namespace
}  // namespace fastopt
