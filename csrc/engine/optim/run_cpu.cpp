// Runs a gathered Step: sums over gradients, clipping, the update.
#include <algorithm>
#include <stdexcept>
#include <tuple>
#include <unordered_set>

#include "engine/interop/run_without_gil.h"
#include "engine/optim/step.h"
#include "engine/workers/dispatch.h"
#include "rules/factored.h"
#include "rules/prologue.h"

namespace py = pybind11;

namespace fastopt {
namespace {

void write_scalar(const Array& where, double value) {
    if (where.data == nullptr) return;
    if (where.type == DType::f32)
        *static_cast<float*>(where.data) = static_cast<float>(value);
    else
        *static_cast<double*>(where.data) = value;
}

// Of what a norm is taken of: gradients, or parameters where the rule reads no gradient.
DType measured_type(const Task& task) { return task.grad.data != nullptr ? task.grad.type : task.param.type; }

// Doubles of scratch memory that an optimizer keeps between steps (4 MiB); larger memory is freed after each step.
constexpr size_t kKeptScratch = 1 << 19;

}  // namespace

int64_t count_chunks(const std::vector<Task>& tasks) {
    int64_t chunks = 0;
    for (const Task& task : tasks) chunks += tiles_along(task.n, kSumChunk);
    return chunks;
}

void place_partials(std::vector<Task>& tasks, int device, double* first) {
    for (Task& task : tasks) {
        if (task.device == device) task.partials = first;
        first += tiles_along(task.n, kSumChunk);
    }
}

void place_scratch(const std::vector<Task*>& tasks, double* first) {
    for (Task* task : tasks) {
        task->scratch = first;
        first += scratch_size(*task);
    }
}

int64_t scratch_size(const Task& task) {
    if (task.pass_count == 1) return 0;
    return task.shape.count > 0 ? FactoredScratch::size(task.shape) : ScaledScratch::size(task.n);
}

const std::vector<Task*>& Step::tasks_on(int device) {
    on_one_.clear();
    for (size_t i = 0; i < tasks_.size(); ++i)
        if (tasks_[i].device == device && !places_[i].is_done) on_one_.push_back(&tasks_[i]);
    return on_one_;
}

// Tasks in the order of the parameters; prepared ones come later in tasks_.
bool Step::is_earlier(size_t a, size_t b) const {
    return std::tie(places_[a].group, places_[a].index) < std::tie(places_[b].group, places_[b].index);
}

// Collects the clipped tasks.
void Step::measure(const Constants& constants) {
    order_.clear();
    for (size_t i = 0; i < tasks_.size(); ++i)
        if (tasks_[i].constants->max_grad_norm >= 0) order_.push_back(i);
    const auto earlier = [this](size_t a, size_t b) { return is_earlier(a, b); };
    if (!std::is_sorted(order_.begin(), order_.end(), earlier)) std::sort(order_.begin(), order_.end(), earlier);
    measured_.clear();
    for (const size_t i : order_) {
        measured_.push_back(tasks_[i]);
        measured_.back().constants = &constants;
    }
}

py::object Step::norm(const std::string& reduction, double exponent, double loss_scale, int threads) {
    const int row = find_reduction(reduction);
    const ReductionEntry& entry = kernels().reductions[row];
    Constants constants{};
    constants.rule[0] = exponent;
    measure(constants);
    if (devices_.size() == 1 && devices_[0] != kHost) return norm_on(devices_[0], row, exponent, loss_scale);

    if (devices_.size() > 1 && !programs_.empty())
        throw std::runtime_error("a norm over several devices takes the host, which capturable=True leaves out");

    partials_.resize(static_cast<size_t>(count_chunks(measured_)));
    place_partials(measured_, kHost, partials_.data());
    for (const int device : devices_)
        if (device != kHost) fetch_partials(device, row, exponent);
    jobs_.clear();
    for (const Task& task : measured_)
        if (task.device == kHost)
            jobs_.push_back({measured_type(task) == DType::f64 ? entry.f64 : entry.f32, &task, task.n, 1});
    run_released(jobs_, threads);
    return py::float_(entry.norm(partials_.data(), static_cast<int64_t>(partials_.size()), exponent) / loss_scale);
}

void Step::clip(const py::object& norm) {
    if (!PyFloat_Check(norm.ptr())) {
        norm_ = norm;
        return;
    }
    for (Constants& constants : constants_)
        if (constants.max_grad_norm >= 0)
            constants.prologue[kGradFactor] =
                Prologue::clipped(constants.prologue[kGradFactor], norm.cast<double>(), constants.max_grad_norm);
}

void Step::run_some(const py::list& owners, int threads) {
    if (shared_.data != nullptr) throw std::logic_error("a grouped rule updates all parameters at once");
    std::unordered_set<PyObject*> chosen;
    for (const py::handle owner : owners) chosen.insert(owner.ptr());
    std::vector<Task*> tasks;
    for (size_t i = 0; i < tasks_.size(); ++i) {
        if (places_[i].is_done || chosen.count(refs_[i].owner) == 0) continue;
        if (tasks_[i].device != kHost) throw std::logic_error("run_some() is for parameters on the CPU");
        tasks.push_back(&tasks_[i]);
    }
    run_on_host(tasks, threads);
    for (const Task* task : tasks) write_counters(static_cast<size_t>(task - tasks_.data()));
}

void Step::run(int threads) {
    for (const int device : devices_) {
        if (device == kHost)
            run_on_host(tasks_on(kHost), threads);
        else
            run_on(device);
    }
    for (size_t i = 0; i < counters_.size(); ++i)
        if (!places_[i].is_done) write_counters(i);
    clear();
}

void Step::write_counters(size_t i) {
    places_[i].is_done = true;
    if (places_[i].programmed != nullptr) return;  // the device has already counted
    write_scalar(counters_[i].step, static_cast<double>(counters_[i].t));
    for (int k = 0; k < kMaxCarried; ++k) write_scalar(counters_[i].carried[k], tasks_[i].constants->carried[k]);
}

void Step::run_on_host(const std::vector<Task*>& tasks, int threads) {
    int64_t doubles = 0;
    for (const Task* task : tasks) doubles += scratch_size(*task);
    if (scratch_.size() < static_cast<size_t>(doubles)) scratch_.resize(static_cast<size_t>(doubles));
    place_scratch(tasks, scratch_.data());
    const auto measured = static_cast<size_t>(count_statistics(tasks));
    if (statistics_.size() < measured) statistics_.resize(measured);
    place_statistics(tasks, statistics_.data());
    for (int pass = 0; pass < kMaxPasses; ++pass) {
        jobs_.clear();
        for (const Task* task : tasks) {
            if (task->n == 0 || task->pass_count <= pass) continue;
            const bool tiled = task->shape.count > 0;
            const int64_t units = tiled ? FactoredScratch::parts_of(task->shape) : task->n;
            jobs_.push_back({task->passes[pass].kernel, task, units, std::max<int64_t>(task->n / units, 1)});
        }
        if (jobs_.empty()) break;
        run_released(jobs_, threads);
        for (const Job<Task>& job : jobs_)
            if (const auto combine = job.task->passes[pass].combine) combine(*job.task);
        if (pass == 0 && shared_.data != nullptr) join_groups();
    }
    write_statistics(tasks);
    if (scratch_.size() > kKeptScratch) scratch_ = {};
}

}  // namespace fastopt
