// Adadelta (arXiv 1212.5701).
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

struct Adadelta {
    static constexpr int states = 2;  // square_avg, acc_delta
    FASTOPT_SCALARS(lr, rho, one_minus_rho, eps);

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c) {
        T& square_avg = state[0];
        T& acc_delta = state[1];
        square_avg = c.rho * square_avg + (c.one_minus_rho * grad) * grad;
        const T delta = square_root((acc_delta + c.eps) / (square_avg + c.eps)) * grad;
        acc_delta = c.rho * acc_delta + (c.one_minus_rho * delta) * delta;
        param -= c.lr * delta;
    }
};

}  // namespace
}  // namespace fastopt
