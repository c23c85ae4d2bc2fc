// The random numbers of random rounding: 16 bits of Philox of (seed, parameter, step, element).
#pragma once

#include "random/mask.h"

namespace fastopt {
namespace {

// Eight elements have a block; its counter is (element / 8, parameter, step).
FASTOPT_HD uint64_t rounding_counter(uint32_t parameter, uint32_t step) { return parameter | uint64_t(step) << 32; }

// All that is stored for an element is rounded by the same 16 bits, each operand by another permutation of their
// values: the parameter by none, state k by k + 1, the copy by the last.
FASTOPT_HD uint16_t permutation_of_state(int k) {
    static_assert(kMaxStates == 4, "one for each state");
    return k < 2 ? (k == 0 ? 0x9e37 : 0x79b9) : (k == 2 ? 0x7f4b : 0xc15b);
}
constexpr uint16_t kPermutationOfParam = 1, kPermutationOfCopy = 0xe42d;

FASTOPT_HD uint16_t permuted(uint16_t random, uint16_t permutation) { return uint16_t(random * uint32_t(permutation)); }

}  // namespace
}  // namespace fastopt
