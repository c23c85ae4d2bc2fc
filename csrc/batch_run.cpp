// What a gathered Batch does: sums over gradients, clipping, the update.
#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <tuple>

#include "batch.h"
#include "cpu/dispatch.h"
#include "rules/factored.h"
#include "rules/prologue.h"
#include "run_released.h"

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

// Doubles of scratch memory an optimizer keeps between steps (4 MiB); more goes back after each step.
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
    return task.shape.count > 0 ? FactoredScratch::size(task.shape) : VectorScratch::size(task.n);
}

std::vector<Task*> Batch::tasks_on(int device) {
    std::vector<Task*> all;
    for (Task& task : tasks_)
        if (task.device == device) all.push_back(&task);
    return all;
}

std::vector<int> Batch::devices() const {
    std::vector<int> all;
    for (const Task& task : tasks_)
        if (std::find(all.begin(), all.end(), task.device) == all.end()) all.push_back(task.device);
    return all;
}

// Those that are clipped, in the order of the parameters; prepared ones come later in tasks_.
std::vector<Task> Batch::measured(const Constants& constants) const {
    std::vector<size_t> order(tasks_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [this](size_t a, size_t b) {
        return std::tie(places_[a].group, places_[a].index) < std::tie(places_[b].group, places_[b].index);
    });
    std::vector<Task> chosen;
    for (const size_t i : order) {
        if (tasks_[i].constants->max_grad_norm < 0) continue;
        chosen.push_back(tasks_[i]);
        chosen.back().constants = &constants;
    }
    return chosen;
}

py::object Batch::norm(const std::string& reduction, double exponent, double loss_scale, int threads) {
    const int row = find_reduction(reduction);
    const ReductionEntry& entry = kernels().reductions[row];
    Constants constants{};
    constants.rule[0] = exponent;
    std::vector<Task> tasks = measured(constants);
    const std::vector<int> where = devices();
    if (where.size() == 1 && where[0] != kHost) return norm_on(where[0], row, exponent, loss_scale, tasks);

    if (where.size() > 1 && !programs_.empty())
        throw std::runtime_error("a norm over several devices takes the host, which capturable=True leaves out");

    std::vector<double> partials(static_cast<size_t>(count_chunks(tasks)));
    place_partials(tasks, kHost, partials.data());
    for (const int device : where)
        if (device != kHost) fetch_partials(device, row, exponent, tasks, partials.data());
    std::vector<Job<Task>> jobs;
    for (const Task& task : tasks)
        if (task.device == kHost)
            jobs.push_back({task.param.type == DType::f64 ? entry.f64 : entry.f32, &task, task.n, 1});
    run_released(jobs, threads);
    return py::float_(entry.norm(partials.data(), static_cast<int64_t>(partials.size()), exponent) / loss_scale);
}

void Batch::clip(const py::object& norm) {
    if (!PyFloat_Check(norm.ptr())) {
        norm_ = norm;
        return;
    }
    for (Constants& constants : constants_)
        if (constants.max_grad_norm >= 0)
            constants.prologue[kGradFactor] =
                Prologue::clipped(constants.prologue[kGradFactor], norm.cast<double>(), constants.max_grad_norm);
}

void Batch::run(int threads) {
    for (const int device : devices()) {
        if (device == kHost)
            run_on_host(threads);
        else
            run_on(device);
    }
    for (size_t i = 0; i < counters_.size(); ++i) {
        if (places_[i].programmed != nullptr) continue;  // the device has counted
        write_scalar(counters_[i].step, static_cast<double>(counters_[i].t));
        for (int k = 0; k < kMaxCarried; ++k) write_scalar(counters_[i].carried[k], tasks_[i].constants->carried[k]);
    }
    clear();
}

void Batch::run_on_host(int threads) {
    const std::vector<Task*> tasks = tasks_on(kHost);
    int64_t doubles = 0;
    for (const Task* task : tasks) doubles += scratch_size(*task);
    if (scratch_.size() < static_cast<size_t>(doubles)) scratch_.resize(static_cast<size_t>(doubles));
    place_scratch(tasks, scratch_.data());
    std::vector<Job<Task>> jobs;
    for (int pass = 0; pass < kMaxPasses; ++pass) {
        jobs.clear();
        for (const Task* task : tasks) {
            if (task->n == 0 || task->pass_count <= pass) continue;
            const bool tiled = task->shape.count > 0;
            const int64_t units = tiled ? FactoredScratch::parts_of(task->shape) : task->n;
            jobs.push_back({task->passes[pass].kernel, task, units, std::max<int64_t>(task->n / units, 1)});
        }
        if (jobs.empty()) break;
        run_released(jobs, threads);
        for (const Job<Task>& job : jobs)
            if (const auto combine = job.task->passes[pass].combine) combine(*job.task);
    }
    if (scratch_.size() > kKeptScratch) scratch_ = {};
}

}  // namespace fastopt
