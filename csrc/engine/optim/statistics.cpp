// The statistics that a monitored Step leaves: where the kernels put them, and, on the CPU, the sum over each tensor.
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "engine/optim/step.h"
#include "engine/workers/dispatch.h"
#include "rules/factored.h"

namespace py = pybind11;

namespace fastopt {
namespace {

// In doubles: 0 unless a monitor measures a parameter that has elements.
int64_t statistics_size(const Task& task) {
    return task.row == nullptr || task.n == 0 ? 0 : kStatistics * parts_of(task);
}

}  // namespace

void Step::leave_statistics(const py::object& table_of, int64_t first, const py::object& indices) {
    more_rows_.clear();
    if (!indices.is_none()) more_rows_ = indices.cast<std::vector<int64_t>>();
    first_row_ = first;
    table_of_ = table_of;
}

Step::Table* Step::table_on(int device) {
    for (Table& table : tables_)
        if (table.device == device) return &table;
    return nullptr;
}

double* Step::row_of(int64_t index, const Task& task, PyObject* param) {
    if (!table_of_ || !rule_->reads_grad) return nullptr;
    if (table_on(task.device) == nullptr) {
        const py::object tensor = table_of_(py::handle(param));
        TensorView there;
        if (!view(tensor.ptr(), there) || there.device != task.device || there.type != DType::f64 || there.complex ||
            !is_contiguous(there) || there.ndim != 2 || there.sizes[1] != kStatistics)
            throw py::type_error("statistics need a float64 tensor of four columns on the device of the parameter");
        tables_.push_back({tensor, there.device, static_cast<double*>(there.data), there.sizes[0], true});
    }
    const Table& table = *table_on(task.device);
    const int64_t row = first_row_ + (more_rows_.empty() ? index : more_rows_.at(static_cast<size_t>(index)));
    if (row < 0 || row >= table.rows) throw py::index_error("statistics have no such row");
    return table.data + kStatistics * row;
}

int64_t count_statistics(const std::vector<Task*>& tasks) {
    int64_t doubles = 0;
    for (const Task* task : tasks) doubles += statistics_size(*task);
    return doubles;
}

void place_statistics(const std::vector<Task*>& tasks, double* first) {
    for (Task* task : tasks) {
        const int64_t size = statistics_size(*task);
        task->statistics = size > 0 ? first : nullptr;
        first += size;
    }
}

// Rows of parameters that the step leaves out become NaN.
void Step::write_statistics(const std::vector<Task*>& tasks) {
    Table* const table = table_on(kHost);
    if (table == nullptr) return;
    const ReductionEntry& sum = kernels().reductions[find_reduction("magnitudes")];
    if (std::exchange(table->is_blank, false))
        std::fill_n(table->data, kStatistics * table->rows, std::numeric_limits<double>::quiet_NaN());
    for (const Task* task : tasks) {
        if (task->row == nullptr) continue;
        const int64_t parts = task->n > 0 ? parts_of(*task) : 0;
        for (int k = 0; k < kStatistics; ++k) {
            const double* const gathered = task->statistics + k * parts;
            // One part is its own sum: a step of many small tensors would feel the 32 lanes.
            task->row[k] = parts == 1 ? *gathered : sum.norm(gathered, parts, 1.0);
        }
    }
}

}  // namespace fastopt
