#include "engine/norm/channel_call.h"

#include <algorithm>

#include "cpu/machine.h"
#include "engine/interop/run_without_gil.h"
#include "engine/norm/channel_cuda.h"
#include "engine/workers/dispatch.h"
#include "norm/channel.h"

namespace py = pybind11;

namespace fastopt {

bool ChannelCall::take_input(py::handle input) {
    if (!take_any_input(input) || input_.ndim < 2) return false;
    if (!empty()) task.layout = task.sets = lay_out_channels(input_);
    task.parameters = task.set_count = task.channel_count = input_.sizes[1];
    task.count = empty() ? 0 : double(input_.numel / input_.sizes[1]);
    return true;
}

bool ChannelCall::take_groups(py::handle input, int64_t groups) {
    if (!take_any_input(input) || input_.ndim < 2 || groups < 1 || input_.sizes[1] % groups != 0) return false;
    if (!empty() && !lay_out_groups(input_, groups, task)) return false;
    task.batch = true;
    task.parameters = input_.sizes[1];
    task.group = std::max<int64_t>(input_.sizes[1] / groups, 1);
    task.set_count = input_.sizes[0] * groups;
    task.channel_count = input_.sizes[0] * input_.sizes[1];
    task.count = empty() ? 0 : double(input_.numel / task.set_count);
    return true;
}

bool ChannelCall::take_running(py::handle mean, py::handle var) {
    return take_both(mean, task.running_mean, var, task.running_var);
}

bool ChannelCall::take_pairs(py::handle tensor, double*& pairs) const {
    return take_doubles(tensor, 2, task.channel_count, pairs);
}

bool ChannelCall::take_shared_statistics(py::handle statistics) {
    if (take_statistics(statistics)) return true;
    if (!take_doubles(statistics, 3, task.set_count, task.statistics)) return false;
    task.counts = task.statistics + 2 * task.set_count;
    return true;
}

bool ChannelCall::take_gathered(py::handle gathered) {
    TensorView own;
    if (!view(gathered.ptr(), own) || own.ndim != 2) return false;
    device_ = own.device;
    task.processes = own.sizes[0];
    task.parameters = task.set_count = task.channel_count = own.sizes[1] / 2;
    double* data = nullptr;
    if (!take_doubles(gathered, task.processes, 2 * task.set_count + 1, data)) return false;
    task.gathered = data;
    return true;
}

void ChannelCall::forward() {
    if (on_device()) return ChannelDevice(task, device_).forward();
    if (empty()) return std::fill_n(task.statistics, 2 * task.set_count, 0.0), void();
    own_moments();
    if (set_by_set()) {
        if (!task.layout.planes || task.layout.segments_per_piece == 1) stream(task.out, machine.stream_forward);
        return each_set(kernels_of(task.sets).forward);
    }
    add_summands();
    gather_moments();
    for (int64_t set = 0; set < task.set_count; ++set) finalize_statistics(task, set);
    apply();
}

void ChannelCall::evaluate() {
    if (on_device()) return ChannelDevice(task, device_).evaluate();
    for (int64_t set = 0; set < task.set_count; ++set) use_running(task, set);
    apply(Order::forwards);
}

void ChannelCall::backward() {
    if (on_device()) return ChannelDevice(task, device_).backward();
    if (empty()) return sums();
    own_sums();
    choose_dz_buffer();
    if (set_by_set()) {
        if (!task.layout.planes || task.layout.segments_per_piece == 1) stream_gradient();
        each_set(kernels_of(task.layout).backward);
    } else {
        gather_sums();
        gradient();
    }
    write_parameter_gradients();
}

void ChannelCall::moments() {
    if (on_device()) return ChannelDevice(task, device_).moments();
    if (empty()) return std::fill_n(task.moments, 2 * task.set_count, 0.0), void();
    gather_moments();
}

void ChannelCall::gather_stats() {
    own_moments();
    if (on_device()) return ChannelDevice(task, device_).gather_stats();
    for (int64_t set = 0; set < task.set_count; ++set) fastopt::gather_stats(task, set);
}

void ChannelCall::apply(Order order) {
    if (on_device()) return ChannelDevice(task, device_).apply();
    if (empty()) return;
    stream(task.out, machine.stream_forward);
    elements(kernels_of(task.layout).apply, order);
}

void ChannelCall::sums() {
    own_sums();
    if (on_device()) return ChannelDevice(task, device_).sums();
    if (empty())
        std::fill_n(task.sums, 2 * task.channel_count, 0.0);
    else
        gather_sums();
    write_parameter_gradients();
}

void ChannelCall::gradient() {
    if (on_device()) return ChannelDevice(task, device_).gradient();
    if (empty()) return;
    stream_gradient();
    elements(kernels_of(task.layout).gradient, Order::backwards);
}

// Allocates memory for pairs that the caller does not ask for. A device has other memory for them.
void ChannelCall::own_moments() {
    if (on_device() || task.moments != nullptr) return;
    moments_.reset(new double[static_cast<size_t>(2 * task.set_count)]);
    task.moments = moments_.get();
}

void ChannelCall::own_sums() {
    if (on_device() || task.sums != nullptr) return;
    sums_.reset(new double[static_cast<size_t>(2 * task.channel_count)]);
    task.sums = sums_.get();
}

void ChannelCall::gather_moments() {
    reserve_partials();
    over(task.sets, kernels_of(task.sets).moments, units_of_sums(task.sets));
    join(task.sets, kernels_of(task.sets).join_moments);
}

void ChannelCall::gather_sums() {
    reserve_partials();
    if (!task.layout.planes) {  // the sums of columns read the coefficients
        double* const sums = task.sums;
        task.sums = nullptr;
        fill_coefficients();
        task.sums = sums;
    }
    over(task.layout, kernels_of(task.layout).sums, units_of_sums(task.layout));
    join(task.layout, kernels_of(task.layout).join_sums);
}

void ChannelCall::write_parameter_gradients() {
    for (int64_t c = 0; c < task.parameters; ++c) fastopt::write_parameter_gradients(task, c);
}

const NormKernels& ChannelCall::kernels_of(const NormLayout& layout) const {
    const NormTable& table = *kernels().norm;
    const bool wide = task.input.type == DType::f64;
    if (!layout.planes) return wide ? table.columns_f64 : table.columns_f32;
    return wide ? table.planes_f64 : table.planes_f32;
}

// Whether a worker takes all of a set at once, or all sets of a sample. Not if that leaves threads without work.
bool ChannelCall::set_by_set() const {
    if (task.sets.planes != task.layout.planes) return false;
    const int64_t units = task.layout.planes ? task.set_count : task.samples;
    return (task.layout.planes ? task.sets.by_channel : task.samples > 1) && keeps_busy(units);
}

void ChannelCall::reserve_partials() {
    const auto numbers = [](const NormLayout& l) { return 2 * l.chunks * (l.planes ? l.channels : l.columns); };
    task.sample_partials = numbers(task.layout);
    partials_.reset(new double[static_cast<size_t>(std::max(numbers(task.sets), task.samples * numbers(task.layout)))]);
    task.partials = partials_.get();
}

void ChannelCall::reserve_coefficients() {
    if (coefficients_) return;
    task.sample_coefficients = 5 * task.layout.repeat;  // of either type
    coefficients_.reset(new double[static_cast<size_t>(task.samples * task.sample_coefficients)]);
    task.coefficients = coefficients_.get();
}

void ChannelCall::over(const NormLayout& layout, NormKernel kernel, Units units, Order order) {
    if (layout.planes || task.samples == 1)
        return run_released<NormTask>({{kernel, &task, units.count, units.elements}}, threads_, order);
    std::vector<NormTask> samples;
    std::vector<Job<NormTask>> jobs;
    samples.reserve(static_cast<size_t>(task.samples));
    for (int64_t sample = 0; sample < task.samples; ++sample) {
        samples.push_back(sample_of(task, sample));
        jobs.push_back({kernel, &samples.back(), units.count, units.elements});
    }
    run_released(jobs, threads_, order);
}

void ChannelCall::elements(NormKernel kernel, Order order) {
    fill_coefficients();
    over(task.layout, kernel, {task.layout.total, 1}, order);
}

void ChannelCall::each_set(NormKernel kernel) {
    reserve_partials();
    if (!task.layout.planes) reserve_coefficients();
    const int64_t units = task.layout.planes ? task.set_count : task.samples;
    run_released<NormTask>({{kernel, &task, units, input_.numel / units}}, threads_);
}

void ChannelCall::join(const NormLayout& l, NormKernel kernel) {
    const int64_t gathered = l.planes ? l.chunks : l.chunks * l.columns / l.channels;
    over(l, kernel, {l.channels, std::max<int64_t>(gathered, 1)});
}

void ChannelCall::fill_coefficients() {
    reserve_coefficients();
    const NormKernel fill = kernels_of(task.layout).fill_coefficients;
    if (task.layout.planes || task.samples == 1) return fill(task, 0, task.set_count);
    over(task.layout, fill, {task.set_count / task.samples, 8 * task.group});
}

// Does not stream where the gradient of z is stored, because it is read again.
void ChannelCall::stream_gradient() {
    if (task.kept.data == nullptr || task.kept.data != task.grad_input.data)
        stream(task.grad_input, machine.stream_backward);
}

// Chooses where to store the gradient of z, which is needed twice. A half type would round it.
void ChannelCall::choose_dz_buffer() {
    const NormTable& table = *kernels().norm;
    if (task.activation == 0 || is_half()) return;
    if (task.grad_residual.data != nullptr)
        task.kept = task.grad_residual;
    else if (table.costly[task.activation])
        task.kept = task.grad_input;
}

}  // namespace fastopt
