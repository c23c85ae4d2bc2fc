// The multi-pass rules, as the table of rules (rules.cu) finds them.
#pragma once

#include "cuda/engine.h"

namespace fastopt::cuda {

struct AdafactorMatrix {
    static void update(const Stream& stream, const Task* const* tasks, int count);
};

}  // namespace fastopt::cuda
