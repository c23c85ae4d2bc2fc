// The random numbers of random rounding: 16 bits of Philox of (seed, parameter, step, element).
#pragma once

#include "random/mask.h"

namespace fastopt {
namespace {

// Eight elements have a block; its counter is (element / 8, parameter, step).
FASTOPT_HD uint64_t rounding_counter(uint32_t parameter, uint32_t step) { return parameter | uint64_t(step) << 32; }

// All that is stored for an element is rounded by the same 16 bits, each operand by another permutation of their
// values: the parameter by none, state k by k + 1, the copy by the last.
constexpr uint16_t kPermutations[] = {1, 0x9e37, 0x79b9, 0x7f4b, 0xc15b, 0xe42d};
static_assert(sizeof kPermutations / sizeof kPermutations[0] == kMaxStates + 2, "one for each operand");

FASTOPT_HD uint16_t permuted(uint16_t random, uint16_t permutation) { return uint16_t(random * uint32_t(permutation)); }

}  // namespace
}  // namespace fastopt
