// Runs the tasks of one step: one parallel region over the tiles of all tensors.
#pragma once

#include <vector>

#include "../common.h"

namespace fastopt {

// Elements per thread below which waking another thread costs more than it brings (about 5 us).
constexpr int64_t kGrain = 16384;

int64_t elements(const std::vector<Task>& tasks);

void run(const std::vector<Task>& tasks, int threads);

}  // namespace fastopt
