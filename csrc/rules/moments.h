// The two averages of Adam and its relatives (arXiv 1412.6980).
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

// `c` has beta2 and one_minus_beta2.
template <class T, class Scalars>
FASTOPT_HD T moved_square(T exp_avg_sq, T grad, const Scalars& c) {
    return c.beta2 * exp_avg_sq + (c.one_minus_beta2 * grad) * grad;
}

// `c` also has one_minus_beta1.
template <class T, class Scalars>
FASTOPT_HD void update_moments(T& exp_avg, T& exp_avg_sq, T grad, const Scalars& c) {
    exp_avg = lerp(exp_avg, grad, c.one_minus_beta1);
    exp_avg_sq = moved_square(exp_avg_sq, grad, c);
}

}  // namespace
}  // namespace fastopt
