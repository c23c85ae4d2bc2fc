// The number of parts that rules.cu is compiled in.
#pragma once

#include "cuda/engine.h"

namespace fastopt::cuda {

constexpr int kParts = 4;  // cmake/cuda.cmake reads this line

// For rules whose row modulo kParts is kPart.
template <int kPart>
void update_in_part(const Stream& stream, int rule, const Task* const* tasks, int count);

}  // namespace fastopt::cuda
