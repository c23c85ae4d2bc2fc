// Which ISA files exist, which this CPU can run, and the one in use.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace fastopt {

std::vector<std::string> built_isas();     // slowest first
std::vector<std::string> detected_isas();  // the built ones this CPU can run
std::string isa_in_use();

// Throws std::invalid_argument for a name that is unknown, not built, or beyond this CPU.
void use_isa(const std::string& name);

const KernelTable& kernels();

}  // namespace fastopt
