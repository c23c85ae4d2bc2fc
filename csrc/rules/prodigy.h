// Prodigy (arXiv 2306.06101): Adam that finds its learning rate, from how far all parameters have come along their
// gradients.
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

struct Prodigy {
    static constexpr int states = 4;  // exp_avg, exp_avg_sq, s, p0
    static constexpr int updated_states = 3, measured_states = 2;

    // step_size: d lr, with bias correction; 0 where the group stands still. grad_weight: d (1 - beta1);
    // square_weight: d^2 (1 - beta2); s_weight: d / d0 step_size, or d / d0 d. All with the d of the step before.
    FASTOPT_SCALARS(beta1, grad_weight, beta2, square_weight, beta3, s_weight, step_size, weight_decay, eps, d0, d_coef,
                    growth_rate);

    enum Shared { kD, kDMax, kDNumerator, kSteps };

    template <class T>
    FASTOPT_HD static T moved_s(T s, T grad, const Scalars<T>& c) {
        return c.beta3 * s + c.s_weight * grad;
    }

    // The element's part in the progress, and in the sum that this is divided by.
    template <class T>
    FASTOPT_HD static void measure(T param, T grad, T* state, const Scalars<T>& c, T& progress, T& path) {
        const bool moves = c.step_size != T(0);
        progress = moves ? grad * (state[1] - param) : T(0);
        path = moves ? magnitude(moved_s(state[0], grad, c)) : T(0);
    }

    // A tensor's progress, with the weight that its group gives it.
    FASTOPT_HD static double weighted(double progress, const double* shared, const Scalars<double>& c) {
        return shared[kD] / c.d0 * c.step_size * progress;
    }

    // Moves on the shared numbers. Returns the new d, or 0 if there has been no gradient yet: then no parameter moves.
    // A NaN never becomes d.
    FASTOPT_HD static double scale(double progress, double path, double* shared, const Scalars<double>& c) {
        if (path == 0) return 0;
        const double numerator = c.beta3 * shared[kDNumerator] + progress;
        const double found = c.d_coef * numerator / path;
        double d = shared[kD], d_max = shared[kDMax];
        if (d == c.d0 && found > d) d = found;
        if (found > d_max) d_max = found;
        d *= c.growth_rate;
        if (!(d < d_max)) d = d_max;
        shared[kD] = d;
        shared[kDMax] = d_max;
        shared[kDNumerator] = numerator;
        shared[kSteps] += 1;
        return d;
    }

    // The decay is skipped if 0, because 0 * inf is NaN.
    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c, T scale) {
        if (c.step_size == T(0)) return;
        state[0] = c.beta1 * state[0] + c.grad_weight * grad;
        state[1] = c.beta2 * state[1] + (c.square_weight * grad) * grad;
        state[2] = moved_s(state[2], grad, c);
        const T adam = state[0] / (square_root(state[1]) + scale * c.eps);
        const T moved = param - c.step_size * (c.weight_decay != T(0) ? adam + c.weight_decay * param : adam);
        if (scale != T(0)) param = moved;
    }
};

}  // namespace
}  // namespace fastopt
