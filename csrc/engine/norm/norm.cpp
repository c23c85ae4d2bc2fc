#include "engine/norm/norm.h"

#include <string>

#include "engine/norm/channel_call.h"
#include "engine/norm/row_call.h"

namespace py = pybind11;

namespace fastopt {
namespace {

// RMS normalization has none.
bool has_bias(const std::string& kind) { return kind == "layer" || kind == "group"; }

// Calls run(call) with a call of the kind's class that has taken its input.
template <class Run>
bool with_call(py::handle input, const std::string& kind, int64_t size, const char* activation, double negative_slope,
               int threads, Run run) {
    RowCall rows(activation, negative_slope, threads);
    if (kind != "group") {
        if (kind != "layer" && kind != "rms" && kind != "rms_rounded")
            throw py::key_error("no normalization '" + kind + "'");
        rows.task.rounds_first = kind == "rms_rounded";
        return rows.take_rows(input, kind == "layer" ? RowCall::Kind::layer : RowCall::Kind::rms, size) && run(rows);
    }
    if (rows.take_groups(input, size)) return run(rows);
    ChannelCall channels(activation, negative_slope, threads);
    return channels.take_groups(input, size) && run(channels);
}

}  // namespace

bool norm(py::handle out, py::handle sum, py::handle input, py::handle residual, py::handle weight, py::handle bias,
          py::handle statistics, const char* kind, int64_t size, double eps, const char* activation,
          double negative_slope, int threads) {
    if (!has_bias(kind) && !absent(bias)) return false;
    return with_call(input, kind, size, activation, negative_slope, threads, [&](auto& call) {
        NormTask& task = call.task;
        if (!call.take_sum(sum, input, residual) || !call.take_parameters(weight, bias) ||
            !call.take_statistics(statistics) || !call.take_result(out, task.out))
            return false;
        task.eps = eps;
        call.forward();
        return true;
    });
}

bool norm_backward(py::handle grad_input, py::handle grad_weight, py::handle grad_bias, py::handle grad,
                   py::handle grad_sum, py::handle input, py::handle weight, py::handle bias, py::handle statistics,
                   const char* kind, int64_t size, const char* activation, double negative_slope, int threads) {
    if (!has_bias(kind) && !(absent(bias) && absent(grad_bias))) return false;
    return with_call(input, kind, size, activation, negative_slope, threads, [&](auto& call) {
        NormTask& task = call.task;
        if (!call.take_operand(grad, task.grad) || !call.take_operand(grad_sum, task.grad_sum) ||
            !call.take_parameters(weight, bias) || !call.take_statistics(statistics) ||
            !call.take_per_parameter(grad_weight, task.grad_weight) ||
            !call.take_per_parameter(grad_bias, task.grad_bias) || !call.take_result(grad_input, task.grad_input))
            return false;
        call.backward();
        return true;
    });
}

}  // namespace fastopt
