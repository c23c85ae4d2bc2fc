// Memory that is about to be written for the first time.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace fastopt {

// From this size on glibc's malloc takes fresh memory from the system each time.
constexpr int64_t kFreshBytes = int64_t{32} << 20;

// Asks for pages of 2 MiB where `bytes` from `data` on are fresh from the system, as large tensors are:
// taking them in pages of 4 KiB costs twice as long as filling them.
void expect_first_write(void* data, size_t bytes);

}  // namespace fastopt
