#include "overlap.h"

#include <algorithm>

#include "tensor.h"

namespace fastopt {
namespace {

Range range(const Array& array, int64_t n, size_t task, const char* role) {
    const char* begin = static_cast<const char*>(array.data);
    return {begin, begin + n * element_size(array.type), task, role};
}

int64_t state_size(const Task& task, int k) {
    if (task.shape.count == 0) return task.n;
    return task.shape.count * (k == 0 ? task.shape.rows : task.shape.columns);
}

std::vector<Range> all_writes(const std::vector<Task>& tasks, const std::vector<Counter>& counters) {
    std::vector<Range> ranges;
    for (size_t i = 0; i < tasks.size(); ++i) {
        const Task& task = tasks[i];
        if (task.n > 0) {
            ranges.push_back(range(task.param, task.n, i, "parameter"));
            if (task.constants->unscales) ranges.push_back(range(task.grad, task.n, i, "gradient"));
            for (int k = 0; k < kMaxStates && task.states[k].data != nullptr; ++k)
                ranges.push_back(range(task.states[k], state_size(task, k), i, "state"));
        }
        if (counters[i].step.data != nullptr) ranges.push_back(range(counters[i].step, 1, i, "step"));
        for (const Array& scalar : counters[i].carried)
            if (scalar.data != nullptr) ranges.push_back(range(scalar, 1, i, "state"));
    }
    return ranges;
}

bool same(const Array& a, const Array& b) { return a.data == b.data && a.type == b.type; }

bool same(const Matrices& a, const Matrices& b) {
    return a.count == b.count && a.rows == b.rows && a.columns == b.columns;
}

}  // namespace

bool OverlapCheck::moved(const std::vector<Task>& tasks, const std::vector<Counter>& counters) const {
    if (tasks.size() != known_tasks_.size()) return true;
    for (size_t i = 0; i < tasks.size(); ++i) {
        const Task &now = tasks[i], &known = known_tasks_[i];
        bool stayed = now.n == known.n && same(now.shape, known.shape) && same(now.param, known.param) &&
                      !now.constants->unscales && same(counters[i].step, known_counters_[i].step);
        for (int k = 0; k < kMaxStates; ++k) stayed &= same(now.states[k], known.states[k]);
        for (int k = 0; k < kMaxCarried; ++k) stayed &= same(counters[i].carried[k], known_counters_[i].carried[k]);
        if (!stayed) return true;
    }
    return false;
}

std::optional<std::pair<Range, Range>> OverlapCheck::find(const std::vector<Task>& tasks,
                                                          const std::vector<Counter>& counters) {
    if (moved(tasks, counters)) {
        known_tasks_.clear();  // nothing is known until the check has passed
        writes_ = all_writes(tasks, counters);
        std::sort(writes_.begin(), writes_.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
        for (size_t i = 1; i < writes_.size(); ++i)
            if (writes_[i].begin < writes_[i - 1].end) return {{writes_[i - 1], writes_[i]}};
        known_tasks_ = tasks;
        known_counters_ = counters;
    }
    for (size_t i = 0; i < tasks.size(); ++i) {
        if (tasks[i].n == 0 || tasks[i].grad.data == nullptr || tasks[i].constants->unscales) continue;
        const Range read = range(tasks[i].grad, tasks[i].n, i, "gradient");
        // The writes are disjoint, so only the last one that begins before the read's end can touch it.
        auto after = std::lower_bound(writes_.begin(), writes_.end(), read.end,
                                      [](const Range& write, const char* end) { return write.begin < end; });
        if (after != writes_.begin() && (--after)->end > read.begin) return {{*after, read}};
    }
    return std::nullopt;
}

}  // namespace fastopt
