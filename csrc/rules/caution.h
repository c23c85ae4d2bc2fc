// Cautious updates (arXiv 2411.16085) and cautious weight decay (arXiv 2510.12402) of any rule that subtracts from the
// parameter what does not depend on it. Such a rule, given kNoParameter, leaves minus its update: exactly, with every
// sign of zero. So no rule knows of them, and they need no difference of two rounded parameters.
// Signs are compared, because a product of small numbers would be 0.
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

template <class T>
constexpr T kNoParameter = T(-0.0);

FASTOPT_HD bool is_cautious(const Constants& constants) { return constants.masks || constants.decays_cautiously; }

template <class T>
struct Caution {
    T decay;   // of the parameter; 1: off
    T factor;  // of the updates that agree with the gradient
    bool masks, decays_cautiously;

    FASTOPT_HD bool is_on() const { return masks || decays_cautiously; }

    FASTOPT_HD static bool have_one_sign(T a, T b) { return ((a > T(0)) & (b > T(0))) | ((a < T(0)) & (b < T(0))); }

    // Whether an update points where the gradient does: the elements that the mask keeps. `negated`: minus the update.
    FASTOPT_HD static bool agrees(T negated, T grad) { return have_one_sign(-negated, grad); }

    // 1 / max(the mask's mean, 1e-3). Counts are exact in double, in any order.
    FASTOPT_HD static double factor_of(double agreeing, int64_t n) { return 1.0 / maximum(agreeing / double(n), 1e-3); }

    // The new parameter. An update of 0 lets it decay, as the paper has it. What the mask drops is multiplied by 0, so
    // that inf and NaN are not hidden.
    FASTOPT_HD T updated(T param, T negated, T grad) const {
        const bool kept = decays_cautiously & have_one_sign(negated, param);
        const T masked = negated * (agrees(negated, grad) ? factor : T(0));
        return (kept ? param : param * decay) + (masks ? masked : negated);
    }
};

}  // namespace
}  // namespace fastopt
