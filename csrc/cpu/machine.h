// What depends on the machine: prefetching, stores past the caches, and how work is shared out. It never changes a
// result. Plain data, like common.h.
#pragma once

#include <stdint.h>

namespace fastopt {

struct Machine {
    int64_t ahead;            // bytes to prefetch ahead; 0 leaves it to the CPU's prefetchers
    int64_t stream_forward;   // bytes from which on a result of BatchNorm is written past the caches
    int64_t stream_backward;  // the same for a gradient
    int64_t grain;            // elements per thread below which waking another thread costs more than it saves
};

// Chosen when the module is loaded; `tune` can change it.
extern Machine machine;

}  // namespace fastopt
