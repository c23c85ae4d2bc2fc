// Schedule-Free AdamW and SGD (arXiv 2405.15682): z takes the steps, x is its average, and the parameter y lies between
// them. x is not stored; y moves as if it were.
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

// `c` has mix, the weight of the new z in x; y_step: lr * (beta * (1 - mix) - 1); lr, with its warm-up.
template <class T, class Scalars>
FASTOPT_HD void move_schedule_free(T& y, T& z, T direction, const Scalars& c) {
    y = lerp(y, z, c.mix) + c.y_step * direction;
    z -= c.lr * direction;
}

struct ScheduleFreeAdamW {
    static constexpr int states = 2;  // z, exp_avg_sq
    // root_correction: 1 / sqrt(1 - beta2^k)
    FASTOPT_SCALARS(beta2, one_minus_beta2, root_correction, eps, weight_decay, mix, y_step, lr);

    // The decay is a part of the direction, at y. It is skipped if 0, because 0 * inf is NaN.
    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c) {
        T& exp_avg_sq = state[1];
        exp_avg_sq = c.beta2 * exp_avg_sq + (c.one_minus_beta2 * grad) * grad;
        const T normed = grad / (square_root(exp_avg_sq) * c.root_correction + c.eps);
        move_schedule_free(param, state[0], c.weight_decay != T(0) ? normed + c.weight_decay * param : normed, c);
    }
};

struct ScheduleFreeSgd {
    static constexpr int states = 1;  // z
    FASTOPT_SCALARS(mix, y_step, lr);

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c) {
        move_schedule_free(param, state[0], grad, c);
    }
};

}  // namespace
}  // namespace fastopt
