// Memory that two operands of a step share, one of them written to: a data race, and a wrong result.
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
    const char* role;  // "parameter", "gradient", "state" or "step"
};

class OverlapCheck {
   public:
    // Two ranges that overlap, if any do. Gradients may share memory with each other unless they are
    // unscaled, which writes to them.
    std::optional<std::pair<MemoryRange, MemoryRange>> find(const std::vector<Task>& tasks,
                                                            const std::vector<Counter>& counters);

   private:
    // Memory seldom moves between steps: while all that is written stays where it was known to be
    // disjoint, only the gradients are looked up.
    std::vector<uint64_t> known_;      // addresses and sizes of all that is written, task after task
    std::vector<MemoryRange> writes_;  // sorted
};

}  // namespace fastopt
