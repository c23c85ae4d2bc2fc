// What happens once per channel, between the sums and the elements.
#pragma once

#include "../norm/batch_norm.h"
#include "../norm/task.h"
#include "element.h"

namespace fastopt {
namespace {

FASTOPT_HD double weight_of(const NormTask& task, int64_t c) {
    return task.weight.data != nullptr ? element(task.weight, c) : 1;
}

template <class T>
FASTOPT_HD Coefficients<T> coefficients_of(const NormTask& task, int64_t c) {
    const double bias = task.bias.data != nullptr ? element(task.bias, c) : 0;
    return coefficients<T>(task.statistics[c], task.statistics[task.layout.channels + c], weight_of(task, c), bias);
}

template <class T>
FASTOPT_HD Projection<T> projection_of(const NormTask& task, int64_t c) {
    if (!task.batch) return {T(0), T(0)};
    const int64_t channels = task.layout.channels;
    return projection<T>(task.statistics[c], task.statistics[channels + c], task.pairs[c], task.pairs[channels + c],
                         task.count);
}

// Mean and sum of squared deviations of a channel: into its statistics, and the running ones.
FASTOPT_HD void settle_moments(const NormTask& task, int64_t c) {
    const int64_t channels = task.layout.channels;
    const double mean = task.pairs[c], squares = task.pairs[channels + c];
    task.statistics[c] = mean;
    task.statistics[channels + c] = inverse_deviation(squares / task.count, task.eps);
    if (task.running_mean.data != nullptr)
        set_element(task.running_mean, c, running(element(task.running_mean, c), mean, task.momentum));
    if (task.running_var.data != nullptr) {
        const double unbiased = squares / (task.count - 1);
        set_element(task.running_var, c, running(element(task.running_var, c), unbiased, task.momentum));
    }
}

// Products were taken with x - center; what the center lacks of the mean is made up for.
template <class T>
FASTOPT_HD void settle_sums(const NormTask& task, int64_t c) {
    const double mean = task.statistics[c];
    task.pairs[task.layout.channels + c] -= (mean - double(T(mean))) * task.pairs[c];
}

}  // namespace
}  // namespace fastopt
