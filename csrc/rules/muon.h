// Muon's momentum (torch.optim.Muon): the direction that the matrix products make orthogonal. Their result is applied
// by the rule Sgd.
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

struct MuonMomentum {
    static constexpr int states = 2;  // momentum_buffer; direction, which the step alone knows
    // momentum_weight: of the buffer in the direction, which is momentum, or 1 without Nesterov's step ahead
    FASTOPT_SCALARS(one_minus_momentum, momentum_weight);

    template <class T>
    FASTOPT_HD static void update(T grad, T* state, const Scalars<T>& c) {
        T& momentum_buffer = state[0];
        momentum_buffer = lerp(momentum_buffer, grad, c.one_minus_momentum);
        state[1] = lerp(grad, momentum_buffer, c.momentum_weight);
    }
};

}  // namespace
}  // namespace fastopt
