#include "engine/optim/overlap.h"

#include <algorithm>

#include "engine/interop/tensor.h"
#include "math/codes.h"

namespace fastopt {
namespace {

MemoryRange range(const Array& array, int64_t n, size_t task, const char* role) {
    const char* begin = static_cast<const char*>(array.data);
    return {begin, begin + n * element_size(array.type), task, role};
}

int64_t state_size(const Task& task, int k) {
    if (task.shape.count == 0) return task.n;
    return task.shape.count * (k == 0 ? task.shape.rows : task.shape.columns);
}

void list_storage(const Storage& storage, int64_t n, size_t task, std::vector<MemoryRange>& ranges) {
    for (const Array& array : {storage.master, storage.average})
        if (array.data != nullptr) ranges.push_back(range(array, n, task, "state"));
    if (storage.copy.data != nullptr) ranges.push_back(range(storage.copy, n, task, "copy"));
    for (float* const scales : storage.scales)
        if (scales != nullptr)
            ranges.push_back(range({scales, DType::f32}, (n + kCodeBlock - 1) / kCodeBlock, task, "state"));
}

void list_writes(const std::vector<Task>& tasks, const std::vector<Counter>& counters,
                 std::vector<MemoryRange>& ranges) {
    ranges.clear();
    for (size_t i = 0; i < tasks.size(); ++i) {
        const Task& task = tasks[i];
        if (task.n > 0) {
            ranges.push_back(range(task.param, task.n, i, "parameter"));
            if (task.constants->unscales) ranges.push_back(range(task.grad, task.n, i, "gradient"));
            for (int k = 0; k < kMaxStates && task.states[k].data != nullptr; ++k)
                ranges.push_back(range(task.states[k], state_size(task, k), i, "state"));
            if (task.storage != nullptr) list_storage(*task.storage, task.n, i, ranges);
        }
        if (counters[i].step.data != nullptr) ranges.push_back(range(counters[i].step, 1, i, "step"));
        for (const Array& scalar : counters[i].carried)
            if (scalar.data != nullptr) ranges.push_back(range(scalar, 1, i, "state"));
    }
}

// Calls visit with every number that determines the ranges a step writes, as long as it returns true.
template <class Visit>
bool each_word(const std::vector<Task>& tasks, const std::vector<Counter>& counters, Visit visit) {
    const auto array = [&](const Array& a) {
        return visit(reinterpret_cast<uintptr_t>(a.data)) && visit(static_cast<uint64_t>(a.type));
    };
    for (size_t i = 0; i < tasks.size(); ++i) {
        const Task& task = tasks[i];
        bool go_on = visit(static_cast<uint64_t>(task.n)) && array(task.param);
        if (task.shape.count > 0)
            go_on = go_on && visit(static_cast<uint64_t>(task.shape.count)) &&
                    visit(static_cast<uint64_t>(task.shape.rows));
        for (int k = 0; go_on && k < kMaxStates && task.states[k].data != nullptr; ++k) go_on = array(task.states[k]);
        if (task.storage != nullptr) {
            const Storage& storage = *task.storage;
            for (const Array& kept : {storage.master, storage.average, storage.copy}) go_on = go_on && array(kept);
            for (float* const scales : storage.scales) go_on = go_on && visit(reinterpret_cast<uintptr_t>(scales));
        }
        go_on = go_on && array(counters[i].step);
        for (int k = 0; go_on && k < kMaxCarried && counters[i].carried[k].data != nullptr; ++k)
            go_on = array(counters[i].carried[k]);
        if (!go_on) return false;
    }
    return true;
}

}  // namespace

std::optional<std::pair<MemoryRange, MemoryRange>> OverlapCheck::find(const std::vector<Task>& tasks,
                                                                      const std::vector<Counter>& counters) {
    bool unscales = false;
    for (const Task& task : tasks) unscales |= task.constants->unscales;
    size_t next = 0;
    const bool stayed = !unscales && each_word(tasks, counters, [&](uint64_t word) {
        return next < known_.size() && known_[next++] == word;
    }) && next == known_.size();
    if (!stayed) {
        known_.clear();  // forgets the ranges until the check has passed
        list_writes(tasks, counters, writes_);
        std::sort(writes_.begin(), writes_.end(), [](const MemoryRange& a, const MemoryRange& b) {
            return a.begin != b.begin ? a.begin < b.begin : a.task < b.task;
        });
        for (size_t i = 1; i < writes_.size(); ++i)
            if (writes_[i].begin < writes_[i - 1].end) return {{writes_[i - 1], writes_[i]}};
        if (!unscales)
            each_word(tasks, counters, [&](uint64_t word) {
                known_.push_back(word);
                return true;
            });
    }
    for (size_t i = 0; i < tasks.size(); ++i) {
        if (tasks[i].n == 0 || tasks[i].grad.data == nullptr || tasks[i].constants->unscales) continue;
        const MemoryRange read = range(tasks[i].grad, tasks[i].n, i, "gradient");
        // The writes are disjoint, so only the last one that begins before the read's end can overlap it.
        auto after = std::lower_bound(writes_.begin(), writes_.end(), read.end,
                                      [](const MemoryRange& write, const char* end) { return write.begin < end; });
        if (after != writes_.begin() && (--after)->end > read.begin) return {{*after, read}};
    }
    return std::nullopt;
}

}  // namespace fastopt
