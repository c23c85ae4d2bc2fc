#include "batch_norm.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/norm_channel.h"
#include "norm_layout.h"
#include "operands.h"
#include "pages.h"
#include "run_released.h"

namespace py = pybind11;

namespace fastopt {
namespace {

int find_activation(const char* name) {
    const NormTable& table = *kernels().norm;
    for (int i = 0; i < table.activation_count; ++i)
        if (std::strcmp(table.activations[i], name) == 0) return i;
    throw py::key_error(std::string("no activation '") + name + "'");
}

// From here on it is faster, also for whoever reads the results next.
constexpr int64_t kStreamForward = int64_t{20} << 20, kStreamBackward = int64_t{8} << 20;

// A call under way: operands as they are taken, then the kernels.
class Call {
   public:
    NormTask task{};

    Call(const char* activation, double negative_slope, int threads) : threads_(threads) {
        task.activation = find_activation(activation);
        task.negative_slope = negative_slope;
    }

    bool take_input(py::handle input) {
        if (!take(input, input_) || input_.complex || input_.ndim < 2) return false;
        task.input = array_of(input_);
        if (input_.numel > 0) task.layout = lay_out_channels(input_);
        task.layout.channels = input_.sizes[1];
        task.count = input_.numel > 0 ? double(input_.numel / input_.sizes[1]) : 0;
        return true;
    }

    bool take_operand(py::handle tensor, Array& operand) {
        TensorView view;
        if (absent(tensor)) return true;
        if (!take_like(tensor, input_, view)) return false;
        operand = array_of(view);
        return true;
    }

    bool take_result(py::handle tensor, Array& operand) {
        TensorView view;
        if (absent(tensor)) return true;
        if (!take_out(tensor, input_, view)) return false;
        expect_first_write(view);
        operand = array_of(view);
        return true;
    }

    // A number per channel, of the input's type or float32; of any type where there is no input.
    bool take_per_channel(py::handle tensor, Array& operand) {
        TensorView own;
        if (absent(tensor)) return true;
        if (!view(tensor.ptr(), own) || own.complex || own.ndim != 1 || own.sizes[0] != task.layout.channels ||
            !is_contiguous(own))
            return false;
        if (task.input.data != nullptr && own.type != task.input.type && own.type != DType::f32) return false;
        operand = array_of(own);
        return true;
    }

    // Two of them that are read.
    bool take_both(py::handle first, Array& one, py::handle second, Array& other) {
        for (py::handle tensor : {first, second})
            if (!absent(tensor) && is_negated(tensor.ptr())) return false;
        return take_per_channel(first, one) && take_per_channel(second, other);
    }

    bool take_parameters(py::handle weight, py::handle bias) { return take_both(weight, task.weight, bias, task.bias); }

    bool take_running(py::handle mean, py::handle var) {
        return take_both(mean, task.running_mean, var, task.running_var);
    }

    // Two float64 numbers per channel.
    bool take_pairs(py::handle tensor, double*& pairs) {
        TensorView own;
        if (!view(tensor.ptr(), own) || own.type != DType::f64 || own.complex || own.ndim != 2 || own.sizes[0] != 2 ||
            own.sizes[1] != task.layout.channels || !is_contiguous(own))
            return false;
        pairs = static_cast<double*>(own.data);
        return true;
    }

    bool empty() const { return input_.numel == 0; }

    // The whole of a channel at once, unless that leaves threads without work.
    bool by_channel() const {
        const int64_t channels = task.layout.channels;
        return task.layout.planes && (channels % threads_ == 0 || channels >= 4 * threads_);
    }

    void forward() {
        stream(task.out, kStreamForward);
        if (by_channel()) return each_channel(of_layout().forward);
        moments();
        settle();
        apply();
    }

    void backward() {
        keep();
        if (task.kept.data == nullptr || task.kept.data != task.grad_input.data)
            stream(task.grad_input, kStreamBackward);
        if (by_channel()) return each_channel(of_layout().backward);
        sums();
        gradient();
    }

    void moments() {
        reserve_partials();
        over(of_layout().moments, units_of_sums(task.layout));
        join(of_layout().join_moments);
    }

    void settle() const {
        for (int64_t c = 0; c < task.layout.channels; ++c) settle_moments(task, c);
    }

    void apply() {
        spread();
        over(of_layout().apply, units_of_elements(task.layout));
    }

    void sums() {
        reserve_partials();
        double* const sums = task.pairs;
        task.pairs = nullptr;
        spread();
        task.pairs = sums;
        over(of_layout().sums, units_of_sums(task.layout));
        join(of_layout().join_sums);
    }

    void gradient() {
        spread();
        over(of_layout().gradient, units_of_elements(task.layout));
    }

   private:
    TensorView input_;
    int threads_;
    std::unique_ptr<double[]> partials_, coefficients_;  // not initialised

    const NormKernels& of_layout() const {
        const NormTable& table = *kernels().norm;
        if (task.input.type == DType::f64) return task.layout.planes ? table.planes_f64 : table.columns_f64;
        return task.layout.planes ? table.planes_f32 : table.columns_f32;
    }

    void over(NormKernel kernel, Units units) const {
        run_released<NormTask>({{kernel, &task, units.count, units.elements}}, threads_);
    }

    void each_channel(NormKernel kernel) {
        reserve_partials();
        over(kernel, {task.layout.channels, task.layout.total / task.layout.channels});
    }

    void join(NormKernel kernel) const {
        const NormLayout& l = task.layout;
        const int64_t gathered = l.planes ? l.chunks : l.chunks * l.columns / l.channels;
        over(kernel, {l.channels, std::max<int64_t>(gathered, 1)});
    }

    void spread() {
        if (task.layout.planes) return;
        if (!coefficients_)
            coefficients_.reset(new double[static_cast<size_t>(5 * task.layout.repeat)]);  // of either type
        task.coefficients = coefficients_.get();
        of_layout().spread(task, 0, task.layout.channels);
    }

    // Results of `from` bytes and more go past the caches; not into fresh memory, which is in them, nor in short
    // segments.
    void stream(const Array& result, int64_t from) {
        if (task.layout.planes && task.layout.segments_per_piece > 1) return;
        const int64_t bytes = result.data == nullptr ? 0 : task.layout.total * element_size(result.type);
        task.streams = bytes >= from && bytes < kFreshBytes;
    }

    // The gradient of z is needed twice. Exactly as it is, so not in a half type.
    void keep() {
        const NormTable& table = *kernels().norm;
        const bool half = task.input.type != DType::f32 && task.input.type != DType::f64;
        if (task.activation == 0 || half) return;
        if (task.grad_residual.data != nullptr)
            task.kept = task.grad_residual;
        else if (table.costly[task.activation])
            task.kept = task.grad_input;
    }

    void reserve_partials() {
        const NormLayout& l = task.layout;
        partials_.reset(new double[static_cast<size_t>(2 * l.chunks * (l.planes ? l.channels : l.columns))]);
        task.partials = partials_.get();
    }
};

// Mean and variance as they are kept, for evaluation.
void take_running_as_statistics(const NormTask& task) {
    const int64_t channels = task.layout.channels;
    for (int64_t c = 0; c < channels; ++c) {
        task.statistics[c] = element(task.running_mean, c);
        task.statistics[channels + c] = inverse_deviation(element(task.running_var, c), task.eps);
    }
}

// The gradients of weight and bias from the sums.
void settle_gradients(const NormTask& task, const Array& grad_weight, const Array& grad_bias) {
    const int64_t channels = task.layout.channels;
    for (int64_t c = 0; c < channels; ++c) {
        if (grad_bias.data != nullptr) set_element(grad_bias, c, task.pairs[c]);
        if (grad_weight.data != nullptr)
            set_element(grad_weight, c, task.pairs[channels + c] * task.statistics[channels + c]);
    }
}

}  // namespace

py::tuple activations() {
    const NormTable& table = *kernels().norm;
    py::tuple names(table.activation_count);
    for (int i = 0; i < table.activation_count; ++i) names[static_cast<size_t>(i)] = table.activations[i];
    return names;
}

bool batch_norm(py::handle out, py::handle input, py::handle residual, py::handle weight, py::handle bias,
                py::handle running_mean, py::handle running_var, py::handle statistics, bool training, double momentum,
                double eps, const char* activation, double negative_slope, int threads) {
    Call call(activation, negative_slope, threads);
    NormTask& task = call.task;
    if (!call.take_input(input) || !call.take_operand(residual, task.residual) || !call.take_parameters(weight, bias) ||
        !call.take_running(running_mean, running_var) || !call.take_pairs(statistics, task.statistics) ||
        !call.take_result(out, task.out) || (!training && (absent(running_mean) || absent(running_var))))
        return false;
    task.momentum = momentum;
    task.eps = eps;
    if (!training)
        take_running_as_statistics(task);
    else if (call.empty())
        std::fill_n(task.statistics, 2 * task.layout.channels, 0.0);
    if (call.empty()) return true;
    if (!training) {
        call.apply();
        return true;
    }
    std::vector<double> pairs(static_cast<size_t>(2 * task.layout.channels));
    task.pairs = pairs.data();
    call.forward();
    return true;
}

bool batch_norm_backward(py::handle grad_input, py::handle grad_residual, py::handle grad_weight, py::handle grad_bias,
                         py::handle grad, py::handle input, py::handle residual, py::handle weight, py::handle bias,
                         py::handle statistics, bool batch, const char* activation, double negative_slope,
                         int threads) {
    Call call(activation, negative_slope, threads);
    NormTask& task = call.task;
    Array of_weight{}, of_bias{};
    if (!call.take_input(input) || !call.take_operand(grad, task.grad) || !call.take_operand(residual, task.residual) ||
        !call.take_parameters(weight, bias) || !call.take_pairs(statistics, task.statistics) ||
        !call.take_per_channel(grad_weight, of_weight) || !call.take_per_channel(grad_bias, of_bias) ||
        !call.take_result(grad_residual, task.grad_residual) || !call.take_result(grad_input, task.grad_input))
        return false;
    task.batch = batch;
    std::vector<double> pairs(static_cast<size_t>(2 * task.layout.channels));
    task.pairs = pairs.data();
    const bool elements = task.grad_input.data != nullptr || task.grad_residual.data != nullptr;
    const bool sums = of_weight.data != nullptr || of_bias.data != nullptr || batch;
    if (!call.empty()) {
        if (elements && sums)
            call.backward();
        else if (elements)
            call.gradient();
        else
            call.sums();
    }
    settle_gradients(task, of_weight, of_bias);
    return true;
}

bool batch_norm_moments(py::handle moments, py::handle input, int threads) {
    Call call("identity", 0, threads);
    if (!call.take_input(input) || !call.take_pairs(moments, call.task.pairs)) return false;
    std::fill_n(call.task.pairs, 2 * call.task.layout.channels, 0.0);
    if (!call.empty()) call.moments();
    return true;
}

bool batch_norm_settle(py::handle statistics, py::handle moments, double count, py::handle running_mean,
                       py::handle running_var, double momentum, double eps) {
    Call call("identity", 0, 1);
    NormTask& task = call.task;
    TensorView own;
    if (!view(moments.ptr(), own) || own.ndim != 2) return false;
    task.layout.channels = own.sizes[1];
    if (!call.take_pairs(statistics, task.statistics) || !call.take_pairs(moments, task.pairs) ||
        !call.take_running(running_mean, running_var))
        return false;
    task.count = count;
    task.momentum = momentum;
    task.eps = eps;
    call.settle();
    return true;
}

bool batch_norm_apply(py::handle out, py::handle input, py::handle residual, py::handle weight, py::handle bias,
                      py::handle statistics, const char* activation, double negative_slope, int threads) {
    Call call(activation, negative_slope, threads);
    NormTask& task = call.task;
    if (!call.take_input(input) || !call.take_operand(residual, task.residual) || !call.take_parameters(weight, bias) ||
        !call.take_pairs(statistics, task.statistics) || !call.take_result(out, task.out))
        return false;
    if (!call.empty()) call.apply();
    return true;
}

bool batch_norm_sums(py::handle sums, py::handle grad, py::handle input, py::handle residual, py::handle weight,
                     py::handle bias, py::handle statistics, const char* activation, double negative_slope,
                     int threads) {
    Call call(activation, negative_slope, threads);
    NormTask& task = call.task;
    if (!call.take_input(input) || !call.take_operand(grad, task.grad) || !call.take_operand(residual, task.residual) ||
        !call.take_parameters(weight, bias) || !call.take_pairs(statistics, task.statistics) ||
        !call.take_pairs(sums, task.pairs))
        return false;
    std::fill_n(task.pairs, 2 * task.layout.channels, 0.0);
    if (!call.empty()) call.sums();
    return true;
}

bool batch_norm_gradient(py::handle grad_input, py::handle grad_residual, py::handle grad, py::handle input,
                         py::handle residual, py::handle weight, py::handle bias, py::handle statistics,
                         py::handle sums, double count, const char* activation, double negative_slope, int threads) {
    Call call(activation, negative_slope, threads);
    NormTask& task = call.task;
    if (!call.take_input(input) || !call.take_operand(grad, task.grad) || !call.take_operand(residual, task.residual) ||
        !call.take_parameters(weight, bias) || !call.take_pairs(statistics, task.statistics) ||
        !call.take_result(grad_residual, task.grad_residual) || !call.take_result(grad_input, task.grad_input))
        return false;
    task.batch = !absent(sums);
    if (task.batch && !call.take_pairs(sums, task.pairs)) return false;
    if (task.batch) task.count = count;
    if (!call.empty()) call.gradient();
    return true;
}

}  // namespace fastopt
