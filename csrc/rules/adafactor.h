// Adafactor (arXiv 1804.04235): keeps the second moment as row and column means. The update is clipped by its root mean
// square, so it takes several passes: vectors use those of every scaled rule, matrices those of
// csrc/cpu/optim/adafactor.h and csrc/cuda/optim/adafactor.cu.
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

struct Adafactor {
    // rho: min(lr, 1 / sqrt(t)); limit: 1 / eps1, the largest 1 / sqrt(second moment)
    FASTOPT_SCALARS(one_minus_beta2, rho, limit, eps1, eps2, d);

    // The new second moment of a vector's element.
    template <class T>
    FASTOPT_HD static T moved(T variance, T grad, const Scalars<T>& c) {
        return lerp(variance, grad * grad, c.one_minus_beta2);
    }

    // The new mean of n squares of a row or column. A matrix's second moment is row_var * col_var / mean(row_var).
    template <class T>
    FASTOPT_HD static T moved_mean(T mean, double squares, int64_t n, const Scalars<T>& c) {
        return lerp(mean, T(squares / double(n)), c.one_minus_beta2);
    }

    template <class T>
    FASTOPT_HD static T mean_of_rows(double sum, int64_t rows, const Scalars<T>& c) {
        return maximum(T(sum / double(rows)), c.eps1);
    }

    template <class T>
    FASTOPT_HD static T inverse_root(T second_moment) {
        return T(1) / square_root(second_moment);
    }

    // `inverse` is 1 / sqrt(second moment): the product of a row's and a column's factor if it is factored.
    template <class T>
    FASTOPT_HD static T update(T grad, T inverse, const Scalars<T>& c) {
        return grad * minimum(inverse, c.limit);
    }

    // The factor of an update: alpha / max(1, RMS(update) / d), from sums of squares over n elements.
    FASTOPT_HD static double scale(double param_squares, double update_squares, int64_t n, const Scalars<double>& c) {
        const double alpha = maximum(c.eps2, square_root(param_squares / double(n))) * c.rho;
        return alpha / maximum(1.0, square_root(update_squares / double(n)) / c.d);
    }
};

// Vectors and scalars: the second moment is a state per element.
struct AdafactorVector : Adafactor {
    static constexpr int states = 1;  // variance

    static constexpr bool measures_param = true;
    static constexpr int measured_states = states;
    template <class T>
    FASTOPT_HD static T measured(T, T grad, T* state, const Scalars<T>& c) {
        state[0] = moved(state[0], grad, c);
        return Adafactor::update(grad, inverse_root(state[0]), c);
    }

    template <class T>
    FASTOPT_HD static void update(T& param, T grad, T* state, const Scalars<T>& c, T scale) {
        param -= scale * measured(param, grad, state, c);
    }
};

}  // namespace
}  // namespace fastopt
