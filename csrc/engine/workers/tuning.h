// Chooses what depends on the machine, by what the CPU says of itself.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cpu/machine.h"

namespace fastopt {

// What the choice is made by; "" and 0 where the CPU or the system does not tell.
std::string cpu_vendor();
int64_t last_cache();  // bytes

// Sets a field of `machine`. Throws std::invalid_argument for a name that is unknown or a value below 0.
void tune(const std::string& name, int64_t value);
std::vector<std::pair<std::string, int64_t>> tuning();

}  // namespace fastopt
