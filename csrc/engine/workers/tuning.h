// Chooses what depends on the machine, by what the CPU reports.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cpu/machine.h"

namespace fastopt {

// What the choice depends on; "" or 0 where CPU and system do not tell.
std::string cpu_vendor();
int64_t last_cache();  // bytes

// Sets a field of `machine`. Throws std::invalid_argument for an unknown name or a negative value.
void tune(const std::string& name, int64_t value);
std::vector<std::pair<std::string, int64_t>> tuning();

}  // namespace fastopt
