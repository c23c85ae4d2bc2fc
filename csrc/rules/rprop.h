// Rprop: a step size per element, which grows and shrinks with the gradient's sign (Riedmiller and Braun, 1993).
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

struct Rprop {
    static constexpr int states = 2;  // prev, step_size
    FASTOPT_SCALARS(eta_minus, eta_plus, step_size_min, step_size_max);

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c) {
        T& prev = state[0];
        T& step_size = state[1];
        const T agreement = grad * prev;
        const T grown = step_size * c.eta_plus, shrunk = step_size * c.eta_minus;
        const T moved = agreement > T(0) ? grown : step_size;
        step_size = clamp(agreement < T(0) ? shrunk : moved, c.step_size_min, c.step_size_max);
        prev = agreement < T(0) ? T(0) : grad;                                // waits for a step after a change of sign
        const T direction = prev > T(0) ? T(1) : prev < T(0) ? T(-1) : T(0);  // NaN: does not move, as in torch
        param -= direction * step_size;
    }
};

}  // namespace
}  // namespace fastopt
