// RMSprop (Hinton's lecture 6), centered (Graves, arXiv 1308.0850), with momentum.
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

template <bool kMomentum, bool kCentered>
struct RmsProp {
    static constexpr int states = 1 + kMomentum + kCentered;  // square_avg, momentum_buffer, grad_avg
    // eps_inside: added below the root; grad_weight: what enters the velocity (1, or lr where lr is
    // inside); step_size: lr, or 1
    FASTOPT_SCALARS(alpha, one_minus_alpha, eps, eps_inside, momentum, grad_weight, step_size);

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c) {
        T& square_avg = state[0];
        square_avg = c.alpha * square_avg + (c.one_minus_alpha * grad) * grad;
        T variance = square_avg;
        if constexpr (kCentered) {
            T& grad_avg = state[1 + kMomentum];
            grad_avg = lerp(grad_avg, grad, c.one_minus_alpha);
            variance = maximum(square_avg - grad_avg * grad_avg, T(0));  // rounding may leave a negative number
        }
        const T root = square_root(variance + c.eps_inside) + c.eps;
        if constexpr (kMomentum) {
            T& velocity = state[1];
            velocity = c.momentum * velocity + (c.grad_weight * grad) / root;
            param -= c.step_size * velocity;
        } else {
            param -= (c.step_size * grad) / root;
        }
    }
};

}  // namespace
}  // namespace fastopt
