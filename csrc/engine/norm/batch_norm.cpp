#include "engine/norm/batch_norm.h"

#include "engine/norm/channel_call.h"
#include "engine/workers/dispatch.h"

namespace py = pybind11;

namespace fastopt {

py::tuple activations() {
    const NormTable& table = *kernels().norm;
    py::tuple names(table.activation_count);
    for (int i = 0; i < table.activation_count; ++i) names[static_cast<size_t>(i)] = table.activations[i];
    return names;
}

bool batch_norm(py::handle out, py::handle input, py::handle residual, py::handle weight, py::handle bias,
                py::handle running_mean, py::handle running_var, py::handle statistics, bool training, double momentum,
                double eps, const char* activation, double negative_slope, int threads) {
    ChannelCall call(activation, negative_slope, threads);
    NormTask& task = call.task;
    if (!call.take_input(input) || !call.take_operand(residual, task.residual) || !call.take_parameters(weight, bias) ||
        !call.take_running(running_mean, running_var) || !call.take_shared_statistics(statistics) ||
        !call.take_result(out, task.out) || (!training && (absent(running_mean) || absent(running_var))))
        return false;
    task.momentum = momentum;
    task.eps = eps;
    if (training) {
        call.forward();
    } else {
        call.evaluate();
    }
    return true;
}

bool batch_norm_backward(py::handle grad_input, py::handle grad_residual, py::handle grad_weight, py::handle grad_bias,
                         py::handle grad, py::handle input, py::handle residual, py::handle weight, py::handle bias,
                         py::handle statistics, bool batch, const char* activation, double negative_slope,
                         int threads) {
    ChannelCall call(activation, negative_slope, threads);
    NormTask& task = call.task;
    if (!call.take_input(input) || !call.take_operand(grad, task.grad) || !call.take_operand(residual, task.residual) ||
        !call.take_parameters(weight, bias) || !call.take_shared_statistics(statistics) ||
        !call.take_per_parameter(grad_weight, task.grad_weight) ||
        !call.take_per_parameter(grad_bias, task.grad_bias) || !call.take_result(grad_residual, task.grad_residual) ||
        !call.take_result(grad_input, task.grad_input))
        return false;
    task.batch = batch;
    const bool elements = task.grad_input.data != nullptr || task.grad_residual.data != nullptr;
    const bool sums = task.grad_weight.data != nullptr || task.grad_bias.data != nullptr || batch;
    if (elements && sums)
        call.backward();
    else if (elements)
        call.gradient();
    else
        call.sums();
    return true;
}

bool batch_norm_moments(py::handle moments, py::handle input, int threads) {
    ChannelCall call("identity", 0, threads);
    if (!call.take_input(input) || !call.take_pairs(moments, call.task.moments)) return false;
    call.moments();
    return true;
}

bool batch_norm_gather_stats(py::handle statistics, py::handle gathered, py::handle running_mean,
                             py::handle running_var, double momentum, double eps) {
    ChannelCall call("identity", 0, 1);
    NormTask& task = call.task;
    if (!call.take_gathered(gathered) || !call.take_shared_statistics(statistics) || task.counts == nullptr ||
        !call.take_running(running_mean, running_var))
        return false;
    task.momentum = momentum;
    task.eps = eps;
    call.gather_stats();
    return true;
}

bool batch_norm_apply(py::handle out, py::handle input, py::handle residual, py::handle weight, py::handle bias,
                      py::handle statistics, const char* activation, double negative_slope, int threads) {
    ChannelCall call(activation, negative_slope, threads);
    NormTask& task = call.task;
    if (!call.take_input(input) || !call.take_operand(residual, task.residual) || !call.take_parameters(weight, bias) ||
        !call.take_shared_statistics(statistics) || !call.take_result(out, task.out))
        return false;
    call.apply();
    return true;
}

bool batch_norm_sums(py::handle sums, py::handle grad, py::handle input, py::handle residual, py::handle weight,
                     py::handle bias, py::handle statistics, const char* activation, double negative_slope,
                     int threads) {
    ChannelCall call(activation, negative_slope, threads);
    NormTask& task = call.task;
    if (!call.take_input(input) || !call.take_operand(grad, task.grad) || !call.take_operand(residual, task.residual) ||
        !call.take_parameters(weight, bias) || !call.take_shared_statistics(statistics) ||
        !call.take_pairs(sums, task.sums))
        return false;
    call.sums();
    return true;
}

bool batch_norm_gradient(py::handle grad_input, py::handle grad_residual, py::handle grad, py::handle input,
                         py::handle residual, py::handle weight, py::handle bias, py::handle statistics,
                         py::handle sums, const char* activation, double negative_slope, int threads) {
    ChannelCall call(activation, negative_slope, threads);
    NormTask& task = call.task;
    if (!call.take_input(input) || !call.take_operand(grad, task.grad) || !call.take_operand(residual, task.residual) ||
        !call.take_parameters(weight, bias) || !call.take_shared_statistics(statistics) ||
        !call.take_result(grad_residual, task.grad_residual) || !call.take_result(grad_input, task.grad_input))
        return false;
    task.batch = !absent(sums);
    if (task.batch && (task.counts == nullptr || !call.take_pairs(sums, task.sums))) return false;
    call.gradient();
    return true;
}

}  // namespace fastopt
