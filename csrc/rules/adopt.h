// ADOPT: Adam that divides by the average square before the gradient enters it, and averages after that
// (arXiv 2411.02853).
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

struct Adopt {
    static constexpr int states = 2;  // exp_avg, exp_avg_sq
    // first: 1 in the first step, in which only exp_avg_sq moves, to the square (beta2 is 0, shrink is 1);
    // clip: (t - 1)^clip_exp; shrink: 1 - lr * weight_decay where it is decoupled, which the first step leaves out
    FASTOPT_SCALARS(first, one_minus_beta1, beta2, one_minus_beta2, clip, lr, shrink, eps);

    // The decay that `shrink` is, for a cautious one.
    template <class T>
    FASTOPT_HD static T decay(const Scalars<T>& c) {
        return c.shrink;
    }

    // A branch-free selection, so that a NaN of the first gradient does not enter exp_avg.
    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c) {
        T& exp_avg = state[0];
        T& exp_avg_sq = state[1];
        const T normed = clamp(grad / maximum(square_root(exp_avg_sq), c.eps), -c.clip, c.clip);
        exp_avg = c.first != T(0) ? exp_avg : lerp(exp_avg, normed, c.one_minus_beta1);
        param = c.shrink * param - c.lr * exp_avg;
        exp_avg_sq = c.beta2 * exp_avg_sq + (c.one_minus_beta2 * grad) * grad;
    }
};

}  // namespace
}  // namespace fastopt
