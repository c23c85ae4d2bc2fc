// Finds operands of a step that share memory of which one is written: a data race, and a wrong result.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "common.h"

namespace fastopt {

// The memory of one operand of one task.
struct MemoryRange {
    const char *begin, *end;
    size_t task;
    const char* role;  // "parameter", "gradient", "state", "step" or "copy"
};

class OverlapCheck {
   public:
    // Returns two ranges that overlap, if there are any. Gradients may share memory with each other, unless unscaling
    // writes to them.
    std::optional<std::pair<MemoryRange, MemoryRange>> find(const std::vector<Task>& tasks,
                                                            const std::vector<Counter>& counters);

   private:
    // Memory seldom moves between steps. While all written memory stays where it was found disjoint, only the gradients
    // are looked up.
    std::vector<uint64_t> known_;      // addresses and sizes of all written memory, task after task
    std::vector<MemoryRange> writes_;  // sorted
};

}  // namespace fastopt
