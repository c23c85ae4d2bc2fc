// Memory that is about to be written for the first time.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace fastopt {

// From this size on, glibc's malloc takes fresh memory from the system for every allocation.
constexpr int64_t kFreshBytes = int64_t{32} << 20;

// Asks the system for pages of 2 MiB if the memory is so large that it must be fresh: getting it in pages of 4 KiB
// takes longer than filling it.
void expect_first_write(void* data, size_t bytes);

}  // namespace fastopt
