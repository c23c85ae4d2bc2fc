// The two averages of Adam and its relatives (arXiv 1412.6980).
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

// `c` has one_minus_beta1, beta2 and one_minus_beta2.
template <class T, class Scalars>
FASTOPT_HD void update_moments(T& exp_avg, T& exp_avg_sq, T grad, const Scalars& c) {
    exp_avg = lerp(exp_avg, grad, c.one_minus_beta1);
    exp_avg_sq = c.beta2 * exp_avg_sq + (c.one_minus_beta2 * grad) * grad;
}

}  // namespace
}  // namespace fastopt
