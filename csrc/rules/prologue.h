// What all rules share before they run: unscale, clip, maximize, L2, L1, decoupled decay.
// A part that is off changes no bit, not even of inf and NaN: penalties are skipped (0 * inf is NaN); the decay
// multiplies by 1, which is exact and cheaper than a second pass.
// CPU kernels call these functions for a block in L1; a GPU thread calls them with n = 1.
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

struct Prologue {
    // loss_scale: AMP's scale, which divides gradients (1: off)
    // grad_factor: clip coefficient times -1 for maximize (1: off)
    // max_grad_value: gradients are clamped to +- this (infinite: off)
    // weight_decay, l1: coupled penalties (0: off); decay: 1 - lr * weight_decay, decoupled (1: off)
    FASTOPT_SCALARS(loss_scale, grad_factor, max_grad_value, weight_decay, l1, decay);

    template <class T>
    FASTOPT_HD static void unscale(T* grad, int n, const Scalars<T>& c) {
        for (int i = 0; i < n; ++i) grad[i] /= c.loss_scale;
    }

    template <class T>
    FASTOPT_HD static bool clamps(const Scalars<T>& c) {
        return c.max_grad_value <= largest(T());
    }

    template <class T>
    FASTOPT_HD static bool penalizes(const Scalars<T>& c) {
        return c.weight_decay != T(0) || c.l1 != T(0);
    }

    template <class T>
    FASTOPT_HD static bool changes_grad(const Scalars<T>& c) {
        return c.grad_factor != T(1) || clamps(c) || penalizes(c);
    }

    template <class T>
    FASTOPT_HD static void clip(T* grad, int n, const Scalars<T>& c) {
        if (c.grad_factor != T(1))
            for (int i = 0; i < n; ++i) grad[i] *= c.grad_factor;
        if (clamps(c))
            for (int i = 0; i < n; ++i) grad[i] = clamp(grad[i], -c.max_grad_value, c.max_grad_value);
    }

    template <class T>
    FASTOPT_HD static void gradient(const T* __restrict param, T* __restrict grad, int n, const Scalars<T>& c) {
        clip(grad, n, c);
        if (c.weight_decay != T(0))
            for (int i = 0; i < n; ++i) grad[i] += c.weight_decay * param[i];
        if (c.l1 != T(0))
            for (int i = 0; i < n; ++i) grad[i] += c.l1 * sign(param[i]);
    }

    // Of a rule whose gradients are prepared already.
    FASTOPT_HD static Scalars<double> prepared(double decay) { return {1, 1, __builtin_inf(), 0, 0, decay}; }

    // grad_factor for gradients of this norm, which are to have a norm of at most max_norm. NaN passes.
    FASTOPT_HD static double clipped(double grad_factor, double norm, double max_norm) {
        const double coefficient = max_norm / (norm + 1e-6);
        return coefficient >= 1 ? grad_factor : grad_factor * coefficient;
    }

    template <class T>
    FASTOPT_HD static T decayed(T param, const Scalars<T>& c) {
        return param * c.decay;
    }
};

}  // namespace
}  // namespace fastopt
