// Runs a kernel over many tensors: one parallel region over the tiles of all of them.
#pragma once

#include <vector>

#include "../common.h"

namespace fastopt {

// Elements per thread below which waking another thread costs more than it brings (about 5 us).
constexpr int64_t kGrain = 16384;

// One kernel over all units of one task.
struct Job {
    Kernel kernel;
    const Task* task;
    int64_t units;
    int64_t elements_per_unit;
};

void run(const std::vector<Job>& jobs, int threads);

}  // namespace fastopt
