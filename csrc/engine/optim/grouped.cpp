// What grouped rules add to a Step: sums over all its tensors, and numbers that all groups share.
#include <algorithm>
#include <stdexcept>

#include "engine/optim/step.h"
#include "engine/workers/dispatch.h"

namespace py = pybind11;

namespace fastopt {

void Step::share(const py::object& numbers) {
    if (!view(numbers.ptr(), shared_) || shared_.type != DType::f64 || shared_.numel != kShared || shared_.complex ||
        !is_contiguous(shared_))
        throw py::type_error("shared numbers are a float64 tensor of " + std::to_string(kShared));
    held_shared_ = numbers;
}

void Step::check_devices() const {
    if (shared_.data == nullptr) return;
    for (const int device : devices_)
        if (device != shared_.device)
            throw std::runtime_error("the update needs sums over all parameters, which are on several devices");
    for (const ParamIndex& place : places_)
        if (shared_.device != kHost && place.programmed == nullptr)
            throw std::runtime_error("shared numbers are on a device, and so are scalars that depend on them");
}

// All tasks of a grouped rule that have elements, in the order of the parameters.
const std::vector<const Task*>& Step::grouped_tasks() {
    order_.clear();
    for (size_t i = 0; i < tasks_.size(); ++i)
        if (tasks_[i].n > 0 && kernels().rules[tasks_[i].rule].join_group != nullptr) order_.push_back(i);
    std::sort(order_.begin(), order_.end(), [this](size_t a, size_t b) { return is_earlier(a, b); });
    grouped_.clear();
    for (const size_t i : order_) grouped_.push_back(&tasks_[i]);
    return grouped_;
}

void Step::place_sums(double* sums) {
    for (const size_t i : order_) {
        tasks_[i].shared = static_cast<double*>(shared_.data);
        tasks_[i].sums = sums;
    }
}

void Step::join_groups() {
    const std::vector<const Task*>& tasks = grouped_tasks();
    if (tasks.empty()) return;
    partials_.resize(sums_size(tasks.size()));
    place_sums(partials_.data());
    kernels().rules[tasks[0]->rule].join_group(tasks.data(), static_cast<int64_t>(tasks.size()));
}

}  // namespace fastopt
