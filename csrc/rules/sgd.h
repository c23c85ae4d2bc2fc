// Gradient descent, with momentum (Polyak) or Nesterov's form (Sutskever et al., ICML 2013), both also with the
// learning rate inside the velocity.
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

struct Sgd {
    static constexpr int states = 0;
    FASTOPT_SCALARS(lr);

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T*, const Scalars<T>& c) {
        param -= c.lr * grad;
    }
};

// Moves the velocity and returns the direction. `c` has momentum, grad_weight and look_ahead.
template <bool kNesterov, class T, class Scalars>
FASTOPT_HD T with_momentum(T& velocity, T grad, const Scalars& c) {
    velocity = c.momentum * velocity + c.grad_weight * grad;
    if constexpr (kNesterov) return c.look_ahead * grad + c.momentum * velocity;
    return velocity;
}

template <bool kNesterov>
struct SgdMomentum {
    static constexpr int states = 1;  // momentum_buffer
    // grad_weight: what enters the velocity (1 - dampening, times lr where lr is inside);
    // look_ahead: the gradient's weight in Nesterov's direction (1, or lr); step_size: lr, or 1
    FASTOPT_SCALARS(momentum, grad_weight, look_ahead, step_size);

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c) {
        param -= c.step_size * with_momentum<kNesterov>(state[0], grad, c);
    }
};

}  // namespace
}  // namespace fastopt
