// ASGD: gradient descent that averages its iterates (Polyak and Juditsky, 1992).
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

struct Asgd {
    static constexpr int states = 1;  // ax
    // step_size: eta; shrink: 1 - lambd * eta; average_weight: mu
    FASTOPT_SCALARS(step_size, shrink, average_weight);

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c) {
        param = param * c.shrink - c.step_size * grad;
        state[0] = lerp(state[0], param, c.average_weight);
    }
};

}  // namespace
}  // namespace fastopt
