// The arithmetic of normalization for one element, one channel, and one set of elements that share statistics.
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

// The numbers that normalize a channel's elements. float32 cannot hold the mean exactly; `offset` corrects for the
// difference between mean and `center`.
template <class T>
struct Coefficients {
    T center, scale, offset;
};

template <class T>
FASTOPT_HD T normalized(T x, T center, T scale, T offset) {
    return (x - center) * scale + offset;
}

template <class T>
FASTOPT_HD Coefficients<T> coefficients(double mean, double inverse_std, double weight, double bias) {
    const double scale = weight * inverse_std;
    const T center = T(mean);
    return {center, T(scale), T(bias - (mean - double(center)) * scale)};
}

// Projects the gradient: that of x lacks its mean and its part along x. Both are those of a set's gradients times their
// weights, already multiplied by 1 / standard deviation.
template <class T>
struct Projection {
    T mean, slope;
};

template <class T>
FASTOPT_HD T projected(T grad, T x, T center, T scale, T mean, T slope) {
    return (grad * scale - mean) - (x - center) * slope;
}

// `sum` is that of the gradient times its weight, `products` that of its products with x - mean, over `count` elements.
template <class T>
FASTOPT_HD Projection<T> projection(double mean, double inverse_std, double sum, double products, double count) {
    const double slope = inverse_std * inverse_std * inverse_std * products / count;
    return {T(inverse_std * sum / count - (mean - double(T(mean))) * slope), T(slope)};
}

// What is subtracted before squaring: an approximate mean of some elements, from the sum of x - first.
template <class T>
FASTOPT_HD T shift_from(T first, double sum, double one_over_n) {
    return T(double(first) + sum * one_over_n);
}

// Mean and sum of squared deviations.
struct Moments {
    double mean, squares;
};

// Computes moments from the sums of x - shift and of its square.
FASTOPT_HD Moments moments_from(double shift, double sum, double squares, double one_over_n) {
    const double mean = sum * one_over_n, deviations = squares - sum * mean;
    return {shift + mean, deviations < 0 ? 0 : deviations};
}

// Joins count, mean and sum of squared deviations of two sets of elements: Chan, Golub and LeVeque, 1979. A Share holds
// what depends on the counts alone, which many channels have in common.
struct Share {
    double fraction, weight;
};

FASTOPT_HD Share share(double count, double others) {
    const double fraction = others / (count + others);
    return {fraction, count * fraction};
}

FASTOPT_HD void join(double& mean, double& squares, double other_mean, double other_squares, Share of) {
    const double delta = other_mean - mean;
    mean += delta * of.fraction;
    squares += other_squares + delta * delta * of.weight;
}

// 1 / standard deviation
FASTOPT_HD double inverse_deviation(double variance, double eps) { return 1 / square_root(variance + eps); }

FASTOPT_HD double running(double before, double now, double momentum) {
    return momentum * now + (1 - momentum) * before;
}

}  // namespace
}  // namespace fastopt
