// Runs the tasks of one step: one parallel region over the tiles of all tensors.
#pragma once

#include <vector>

#include "../common.h"

namespace fastopt {

void run(const std::vector<Task>& tasks, int threads);

}  // namespace fastopt
