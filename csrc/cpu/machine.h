// What depends on the machine: how memory is walked through, and how work is shared out. Never a result. Plain data,
// like common.h.
#pragma once

#include <stdint.h>

namespace fastopt {

struct Machine {
    int64_t ahead;            // bytes from what is computed to what is asked for; 0: the CPU's own prefetchers do it
    int64_t stream_forward;   // bytes of a result of BatchNorm from which on it goes past the caches
    int64_t stream_backward;  // the same of a gradient
    int64_t grain;            // elements per thread below which waking another one costs more than it brings
};

// As it was chosen when the module was loaded, unless `tune` changed it.
extern Machine machine;

}  // namespace fastopt
