// The arithmetic of batch normalization: of one element, and of one channel.
#pragma once

#include "math/ieee.h"

namespace fastopt {
namespace {

// What a channel's elements are normalized with. The mean does not fit into a float32: `offset` makes up for what
// `center` lacks.
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

// The gradient of x is what is left of the gradient of the normalized value without its mean and its part along x.
template <class T>
struct Projection {
    T mean, slope;
};

template <class T>
FASTOPT_HD T projected(T grad, T x, T center, T scale, T mean, T slope) {
    return ((grad - mean) - (x - center) * slope) * scale;
}

// `sum` and `sum_x` are those of the gradient, and of its products with x - mean, over `count` elements.
template <class T>
FASTOPT_HD Projection<T> projection(double mean, double inverse_std, double sum, double sum_x, double count) {
    const double slope = inverse_std * inverse_std * sum_x / count;
    return {T(sum / count - (mean - double(T(mean))) * slope), T(slope)};
}

// What is subtracted before squares are taken: the mean of some elements, about, from the sum of x - first.
template <class T>
FASTOPT_HD T shift_from(T first, double sum, double one_over_n) {
    return T(double(first) + sum * one_over_n);
}

// Mean and sum of squared deviations.
struct Moments {
    double mean, squares;
};

// From the sums of x - shift, and of its square.
FASTOPT_HD Moments moments_from(double shift, double sum, double squares, double one_over_n) {
    const double mean = sum * one_over_n, deviations = squares - sum * mean;
    return {shift + mean, deviations < 0 ? 0 : deviations};
}

// Count, mean and sum of squared deviations of some elements, joined with those of others: Chan, Golub and LeVeque,
// 1979. What depends on the counts alone is the same for many channels.
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
