// LARS (arXiv 1708.03888): gradient descent with momentum, whose gradients are scaled by norms of their tensor.
#pragma once

#include "rules/sgd.h"

namespace fastopt {
namespace {

template <bool kMomentum, bool kNesterov>
struct Lars {
    static constexpr int states = kMomentum;  // momentum_buffer
    // the first four as in SgdMomentum; adapts: 1, or 0 for the local rate 1
    FASTOPT_SCALARS(momentum, grad_weight, look_ahead, step_size, weight_decay, trust_coefficient, eps, adapts);

    // The gradient alone. The decay has a norm of its own in the denominator.
    static constexpr bool measures_param = true;
    static constexpr int measured_states = 0;
    template <class T>
    FASTOPT_HD static T measured(T, T grad, T*, const Scalars<T>&) {
        return grad;
    }

    // The local rate, which is 1 if either norm is 0 or NaN.
    FASTOPT_HD static double scale(double param_squares, double grad_squares, int64_t, const Scalars<double>& c) {
        if (!(c.adapts != 0 && param_squares > 0 && grad_squares > 0)) return 1;
        const double norm = square_root(param_squares);
        return c.trust_coefficient * norm / (square_root(grad_squares) + c.weight_decay * norm + c.eps);
    }

    // The decay is skipped if 0, because 0 * inf is NaN.
    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c, T scale) {
        const T scaled = scale * (c.weight_decay != T(0) ? grad + c.weight_decay * param : grad);
        T direction = scaled;
        if constexpr (kMomentum) direction = with_momentum<kNesterov>(state[0], scaled, c);
        param -= c.step_size * direction;
    }
};

}  // namespace
}  // namespace fastopt
