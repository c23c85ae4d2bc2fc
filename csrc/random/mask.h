// The mask of dropout as a function of (seed, offset, element), as docs/dropout_mask.md defines it.
#pragma once

#include "random/philox.h"

namespace fastopt {

// An element is dropped with probability threshold / 2^48.
struct Mask {
    uint64_t seed, offset;
    uint64_t threshold;  // 0 to kCertain

    static constexpr uint64_t kCertain = uint64_t(1) << 48;
};

namespace {

// Whether all elements are kept, or all dropped, so that no random number is needed.
FASTOPT_HD bool decided(const Mask& mask) { return mask.threshold == 0 || mask.threshold >= Mask::kCertain; }

// 48 random bits decide about an element. The first 16 are enough unless they tie with the threshold's: one element in
// 65536 needs the other 32, from another Philox block.
constexpr int kElementsPerBlock = 8;

FASTOPT_HD uint32_t first_bits(const Mask& mask) { return uint32_t(mask.threshold >> 32); }
FASTOPT_HD uint32_t other_bits(const Mask& mask) { return uint32_t(mask.threshold); }

FASTOPT_HD bool tie_kept(const Mask& mask, uint64_t element) {
    const uint64_t counter = element | uint64_t(1) << 63;
    return Philox::block(mask.seed, counter, mask.offset).word[0] >= other_bits(mask);
}

// The first 16 bits of one of a block's elements. Without an index, for which a GPU would put the words into memory.
FASTOPT_HD uint32_t bits_of_element(const Philox& block, unsigned within) {
    const uint32_t first = within < 2 ? block.word[0] : block.word[1];
    const uint32_t last = within < 6 ? block.word[2] : block.word[3];
    return (within < 4 ? first : last) >> (within % 2 * 16) & 0xffffu;
}

FASTOPT_HD bool kept(const Mask& mask, uint64_t element) {
    const Philox block = Philox::block(mask.seed, element / kElementsPerBlock, mask.offset);
    const uint32_t drawn = bits_of_element(block, unsigned(element % kElementsPerBlock));
    return drawn > first_bits(mask) || (drawn == first_bits(mask) && tie_kept(mask, element));
}

}  // namespace
}  // namespace fastopt
