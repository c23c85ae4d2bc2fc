// What a gathered Batch does: sums over gradients, clipping, the update.
#include <algorithm>
#include <numeric>

#include "batch.h"
#include "cpu/dispatch.h"
#include "cpu/factored.h"
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

// Doubles of scratch memory a task needs: none, unless it has several passes.
size_t scratch_size(const Task& task) {
    if (task.pass_count == 1) return 0;
    return static_cast<size_t>(task.shape.count > 0 ? FactoredScratch::size(task.shape) : VectorScratch::size(task.n));
}

}  // namespace

double Batch::measure(const std::string& reduction, double exponent, int threads) {
    const ReductionEntry& entry = find_reduction(reduction);
    Constants constants{};
    constants.rule[0] = exponent;
    std::vector<size_t> order(tasks_.size());  // not that of tasks_: prepared parameters come later there
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [this](size_t a, size_t b) { return places_[a] < places_[b]; });
    std::vector<Task> measured;
    int64_t total_chunks = 0;
    for (const size_t i : order) {
        const Task& task = tasks_[i];
        if (task.constants->max_grad_norm < 0) continue;
        measured.push_back(task);
        measured.back().constants = &constants;
        total_chunks += tiles_along(task.n, kTile);
    }
    std::vector<double> partials(static_cast<size_t>(total_chunks));
    std::vector<Job<Task>> jobs;
    double* next = partials.data();
    for (Task& task : measured) {
        task.partials = next;
        next += tiles_along(task.n, kTile);
        jobs.push_back({task.param.type == DType::f64 ? entry.f64 : entry.f32, &task, task.n, 1});
    }
    run_released(jobs, threads);
    double result = entry.start;
    for (const double partial : partials) result = entry.join(result, partial);
    return result;
}

void Batch::clip(double norm) {
    for (Constants& constants : constants_) {
        if (constants.max_grad_norm < 0) continue;
        const double coefficient = constants.max_grad_norm / (norm + 1e-6);
        if (!(coefficient >= 1)) constants.prologue[kGradFactor] *= coefficient;  // NaN passes
    }
}

void Batch::run(int threads) {
    size_t doubles = 0;
    for (const Task& task : tasks_) doubles += scratch_size(task);
    if (scratch_.size() < doubles) scratch_.resize(doubles);
    double* next = scratch_.data();
    for (Task& task : tasks_) {
        task.scratch = next;
        next += scratch_size(task);
    }
    std::vector<Job<Task>> jobs;
    for (int pass = 0; pass < kMaxPasses; ++pass) {
        jobs.clear();
        for (const Task& task : tasks_) {
            if (task.n == 0 || task.pass_count <= pass) continue;
            const bool tiled = task.shape.count > 0;
            const int64_t units = tiled ? task.shape.count * tiles_per_matrix(task.shape) : task.n;
            jobs.push_back({task.passes[pass].kernel, &task, units, std::max<int64_t>(task.n / units, 1)});
        }
        if (jobs.empty()) break;
        run_released(jobs, threads);
        for (const Job<Task>& job : jobs)
            if (const auto combine = job.task->passes[pass].combine) combine(*job.task);
    }
    if (scratch_.size() > kKeptScratch) scratch_ = {};
    for (size_t i = 0; i < counters_.size(); ++i) {
        const Counter& counter = counters_[i];
        write_scalar(counter.step, static_cast<double>(counter.t));
        for (int k = 0; k < kMaxCarried; ++k) write_scalar(counter.carried[k], tasks_[i].constants->carried[k]);
    }
    clear();
}

}  // namespace fastopt
