// Work per channel and per set of channels, between the sums and the elements.
#pragma once

#include "math/element.h"
#include "norm/formulas.h"
#include "norm/task.h"

namespace fastopt {
namespace {

// A channel, its set, and the index of its weights. Divisions are slow next to a short channel's elements.
struct Channel {
    int64_t index, set, parameter;
};

FASTOPT_HD Channel channel_at(const NormTask& task, int64_t c) {
    return {c, task.group == 1 ? c : c / task.group, c < task.parameters ? c : c % task.parameters};
}

FASTOPT_HD double mean_of(const NormTask& task, int64_t set) { return task.statistics[set]; }
FASTOPT_HD double inverse_std_of(const NormTask& task, int64_t set) { return task.statistics[task.set_count + set]; }

FASTOPT_HD double weight_of(const NormTask& task, const Channel& c) {
    return task.weight.data != nullptr ? element(task.weight, c.parameter) : 1;
}

template <class T>
FASTOPT_HD Coefficients<T> coefficients_of(const NormTask& task, const Channel& c) {
    const double bias = task.bias.data != nullptr ? element(task.bias, c.parameter) : 0;
    return coefficients<T>(mean_of(task, c.set), inverse_std_of(task, c.set), weight_of(task, c), bias);
}

// The number of elements of a set in all processes.
FASTOPT_HD double count_of(const NormTask& task, int64_t set) {
    return task.counts != nullptr ? task.counts[set] : task.count;
}

// The projection of a set's channels, from their sums.
template <class T>
FASTOPT_HD Projection<T> projection_of(const NormTask& task, int64_t set) {
    if (!task.batch) return {T(0), T(0)};
    double sum = 0, products = 0;
    Channel c = channel_at(task, set * task.group);
    for (int64_t k = 0; k < task.group; ++k, ++c.index, ++c.parameter) {
        const double weight = weight_of(task, c);
        sum += weight * task.sums[c.index];
        products += weight * task.sums[task.channel_count + c.index];
    }
    return projection<T>(mean_of(task, set), inverse_std_of(task, set), sum, products, count_of(task, set));
}

// Turns a set's moments into its statistics, and updates the running ones.
FASTOPT_HD void finalize_statistics(const NormTask& task, int64_t set) {
    const double mean = task.moments[set], squares = task.moments[task.set_count + set], count = count_of(task, set);
    task.statistics[set] = mean;
    task.statistics[task.set_count + set] = inverse_deviation(squares / count, task.eps);
    if (task.running_mean.data != nullptr)
        set_element(task.running_mean, set, running(element(task.running_mean, set), mean, task.momentum));
    if (task.running_var.data != nullptr) {
        const double unbiased = squares / (count - 1);
        set_element(task.running_var, set, running(element(task.running_var, set), unbiased, task.momentum));
    }
}

// The same from the moments of all processes, joined in their order. A process without elements has no moments.
FASTOPT_HD void gather_stats(const NormTask& task, int64_t c) {
    const int64_t channels = task.set_count;
    double mean = 0, squares = 0, count = 0;
    for (int64_t process = 0; process < task.processes; ++process) {
        const double* const theirs = task.gathered + process * (2 * channels + 1);
        const double others = theirs[2 * channels];
        if (others > 0) join(mean, squares, theirs[c], theirs[channels + c], share(count, others));
        count += others;
    }
    task.moments[c] = mean;
    task.moments[channels + c] = squares;
    task.counts[c] = count;
    if (count > 0)
        finalize_statistics(task, c);
    else
        task.statistics[c] = task.statistics[channels + c] = 0;
}

// Uses the running mean and variance, for evaluation.
FASTOPT_HD void use_running(const NormTask& task, int64_t c) {
    task.statistics[c] = element(task.running_mean, c);
    task.statistics[task.set_count + c] = inverse_deviation(element(task.running_var, c), task.eps);
}

// The products were taken with x - center; this corrects them for the difference between center and mean.
template <class T>
FASTOPT_HD void finalize_sums(const NormTask& task, const Channel& c) {
    const double mean = mean_of(task, c.set);
    task.sums[task.channel_count + c.index] -= (mean - double(T(mean))) * task.sums[c.index];
}

// Computes the gradients of a weight and a bias from the sums of the channels that share them.
FASTOPT_HD void write_parameter_gradients(const NormTask& task, int64_t parameter) {
    const int64_t channels = task.channel_count;
    if (task.grad_bias.data != nullptr) {
        double sum = 0;
        for (int64_t c = parameter; c < channels; c += task.parameters) sum += task.sums[c];
        set_element(task.grad_bias, parameter, sum);
    }
    if (task.grad_weight.data != nullptr) {
        double sum = 0;
        for (int64_t c = parameter; c < channels; c += task.parameters)
            sum += task.sums[channels + c] * inverse_std_of(task, channel_at(task, c).set);
        set_element(task.grad_weight, parameter, sum);
    }
}

FASTOPT_HD Array advanced(const Array& array, int64_t n) {
    const int64_t size = array.type == DType::f64 ? 8 : array.type == DType::f32 ? 4 : 2;
    return {array.data != nullptr ? static_cast<char*>(array.data) + n * size : nullptr, array.type};
}

// One sample as a task of its own. Parameters and their gradients stay those of all samples, and so do the counts.
FASTOPT_HD NormTask sample_of(const NormTask& all, int64_t sample) {
    NormTask task = all;
    Array* const operands[] = {&task.input, &task.residual,   &task.summands[0],   &task.summands[1], &task.out,
                               &task.grad,  &task.grad_input, &task.grad_residual, &task.grad_sum,    &task.kept};
    for (Array* operand : operands) *operand = advanced(*operand, sample * all.layout.total);
    const int64_t sets = all.set_count / all.samples, channels = all.channel_count / all.samples;
    if (task.statistics != nullptr) task.statistics += sample * sets;
    if (task.moments != nullptr) task.moments += sample * sets;
    if (task.sums != nullptr) task.sums += sample * channels;
    if (task.partials != nullptr) task.partials += sample * all.sample_partials;
    if (task.coefficients != nullptr)
        task.coefficients = static_cast<double*>(task.coefficients) + sample * all.sample_coefficients;
    return task;
}

}  // namespace
}  // namespace fastopt
