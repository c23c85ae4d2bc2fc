// Which ISAs were built, which of them this CPU can run, and which one is in use.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace fastopt {

std::vector<std::string> built_isas();     // slowest first
std::vector<std::string> detected_isas();  // those built that this CPU can run
std::string isa_in_use();

// Throws std::invalid_argument for a name that is unknown, not built, or that this CPU cannot run.
void use_isa(const std::string& name);

const KernelTable& kernels();

}  // namespace fastopt
