// Adagrad (Duchi et al., JMLR 12, 2011).
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

struct Adagrad {
    static constexpr int states = 1;  // sum
    // step_size: lr / (1 + (t - 1) * lr_decay); eps_inside: added below the root
    FASTOPT_SCALARS(step_size, eps, eps_inside);

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c) {
        T& sum = state[0];
        sum += grad * grad;
        param -= (c.step_size * grad) / (square_root(sum + c.eps_inside) + c.eps);
    }
};

}  // namespace
}  // namespace fastopt
