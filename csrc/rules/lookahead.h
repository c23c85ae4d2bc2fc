// Lookahead: slow weights that follow the fast ones every few steps (arXiv 1907.08610).
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

// Reads no gradient: the parameter already has the inner optimizer's update.
struct Lookahead {
    static constexpr int states = 1;  // slow_param
    FASTOPT_SCALARS(alpha);

    template <class T>
    FASTOPT_HD static void update(T& param, T* state, const Scalars<T>& c) {
        param = state[0] = lerp(state[0], param, c.alpha);
    }
};

}  // namespace
}  // namespace fastopt
