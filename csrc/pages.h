// Memory that is about to be written for the first time.
#pragma once

#include <stddef.h>

namespace fastopt {

// Asks for pages of 2 MiB where `bytes` from `data` on are fresh from the system, as large tensors are:
// taking them in pages of 4 KiB costs twice as long as filling them.
void expect_first_write(void* data, size_t bytes);

}  // namespace fastopt
