// The statistics that a monitored Step leaves: where the kernels put them, and the sum over each tensor.
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <vector>

#include "engine/optim/step.h"
#include "engine/workers/dispatch.h"
#include "rules/factored.h"

namespace py = pybind11;

namespace fastopt {

void Step::leave_statistics(const py::object& table, int64_t first, const py::object& indices) {
    TensorView there;
    if (!view(table.ptr(), there) || !there.on_host || there.type != DType::f64 || there.complex ||
        !is_contiguous(there) || there.ndim != 2 || there.sizes[1] != kStatistics)
        throw py::type_error("statistics need a float64 tensor of four columns");
    more_rows_.clear();
    if (!indices.is_none()) more_rows_ = indices.cast<std::vector<int64_t>>();
    first_row_ = first;
    held_table_ = table;
    table_ = static_cast<double*>(there.data);
    table_rows_ = there.sizes[0];
}

double* Step::row_of(int64_t index, const Task& task) const {
    if (table_ == nullptr || !rule_->reads_grad) return nullptr;
    if (task.device != kHost)
        throw std::runtime_error(
            "fastopt.monitor is for parameters on the CPU so far, and one is on a device: remove() the monitor");
    const int64_t row = first_row_ + (more_rows_.empty() ? index : more_rows_.at(static_cast<size_t>(index)));
    if (row < 0 || row >= table_rows_) throw py::index_error("statistics have no such row");
    return table_ + kStatistics * row;
}

void Step::place_statistics() {
    if (table_ == nullptr) return;
    int64_t doubles = 0;
    for (size_t i = 0; i < tasks_.size(); ++i)
        if (places_[i].row != nullptr) doubles += kStatistics * parts_of(tasks_[i]);
    if (statistics_.size() < static_cast<size_t>(doubles)) statistics_.resize(static_cast<size_t>(doubles));
    double* next = statistics_.data();
    for (size_t i = 0; i < tasks_.size(); ++i) {
        if (places_[i].row == nullptr || tasks_[i].n == 0) continue;
        tasks_[i].statistics = next;
        next += kStatistics * parts_of(tasks_[i]);
    }
}

void Step::write_statistics() {
    if (table_ == nullptr) return;
    const ReductionEntry& sum = kernels().reductions[find_reduction("magnitudes")];
    std::fill_n(table_, kStatistics * table_rows_, std::numeric_limits<double>::quiet_NaN());
    for (size_t i = 0; i < tasks_.size(); ++i) {
        if (places_[i].row == nullptr) continue;
        const int64_t parts = tasks_[i].n > 0 ? parts_of(tasks_[i]) : 0;
        for (int k = 0; k < kStatistics; ++k) {
            const double* const gathered = tasks_[i].statistics + k * parts;
            // One part is its own sum: a step of many small tensors would feel the 32 lanes.
            places_[i].row[k] = parts == 1 ? *gathered : sum.norm(gathered, parts, 1.0);
        }
    }
}

}  // namespace fastopt
