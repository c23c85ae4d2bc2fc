// Work per channel, between the sums and the elements.
#pragma once

#include "math/element.h"
#include "norm/formulas.h"
#include "norm/task.h"

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

// The number of elements of a channel in all processes.
FASTOPT_HD double count_of(const NormTask& task, int64_t c) {
    return task.counts != nullptr ? task.counts[c] : task.count;
}

template <class T>
FASTOPT_HD Projection<T> projection_of(const NormTask& task, int64_t c) {
    if (!task.batch) return {T(0), T(0)};
    const int64_t channels = task.layout.channels;
    return projection<T>(task.statistics[c], task.statistics[channels + c], task.pairs[c], task.pairs[channels + c],
                         count_of(task, c));
}

// Turns a channel's moments into its statistics, and updates the running ones.
FASTOPT_HD void finalize_statistics(const NormTask& task, int64_t c) {
    const int64_t channels = task.layout.channels;
    const double mean = task.pairs[c], squares = task.pairs[channels + c], count = count_of(task, c);
    task.statistics[c] = mean;
    task.statistics[channels + c] = inverse_deviation(squares / count, task.eps);
    if (task.running_mean.data != nullptr)
        set_element(task.running_mean, c, running(element(task.running_mean, c), mean, task.momentum));
    if (task.running_var.data != nullptr) {
        const double unbiased = squares / (count - 1);
        set_element(task.running_var, c, running(element(task.running_var, c), unbiased, task.momentum));
    }
}

// The same from the moments of all processes, joined in their order. A process without elements has no moments.
FASTOPT_HD void gather_stats(const NormTask& task, int64_t c) {
    const int64_t channels = task.layout.channels;
    double mean = 0, squares = 0, count = 0;
    for (int64_t process = 0; process < task.processes; ++process) {
        const double* const theirs = task.gathered + process * (2 * channels + 1);
        const double others = theirs[2 * channels];
        if (others > 0) join(mean, squares, theirs[c], theirs[channels + c], share(count, others));
        count += others;
    }
    task.pairs[c] = mean;
    task.pairs[channels + c] = squares;
    task.counts[c] = count;
    if (count > 0)
        finalize_statistics(task, c);
    else
        task.statistics[c] = task.statistics[channels + c] = 0;
}

// Uses the running mean and variance, for evaluation.
FASTOPT_HD void use_running(const NormTask& task, int64_t c) {
    task.statistics[c] = element(task.running_mean, c);
    task.statistics[task.layout.channels + c] = inverse_deviation(element(task.running_var, c), task.eps);
}

// The products were taken with x - center; this corrects them for the difference between center and mean.
template <class T>
FASTOPT_HD void finalize_sums(const NormTask& task, int64_t c) {
    const double mean = task.statistics[c];
    task.pairs[task.layout.channels + c] -= (mean - double(T(mean))) * task.pairs[c];
}

// Computes the gradients of weight and bias from the sums.
FASTOPT_HD void write_parameter_gradients(const NormTask& task, int64_t c) {
    const int64_t channels = task.layout.channels;
    if (task.grad_bias.data != nullptr) set_element(task.grad_bias, c, task.pairs[c]);
    if (task.grad_weight.data != nullptr)
        set_element(task.grad_weight, c, task.pairs[channels + c] * task.statistics[channels + c]);
}

}  // namespace
}  // namespace fastopt
