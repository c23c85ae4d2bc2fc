// The mask of dropout as a function of (seed, offset, element): docs/dropout_mask.md in code.
#pragma once

#include "philox.h"

namespace fastopt {

// An element is dropped with probability threshold / 2^48.
struct Mask {
    uint64_t seed, offset;
    uint64_t threshold;  // 0 to kCertain

    static constexpr uint64_t kCertain = uint64_t(1) << 48;
};

namespace {

// 48 random bits decide about an element. The first 16 are enough unless they equal the threshold's:
// one element in 65536 looks at the other 32, in a block of its own.
constexpr int kElementsPerBlock = 8;

FASTOPT_HD uint32_t first_bits(const Mask& mask) { return uint32_t(mask.threshold >> 32); }
FASTOPT_HD uint32_t other_bits(const Mask& mask) { return uint32_t(mask.threshold); }

FASTOPT_HD bool tie_kept(const Mask& mask, uint64_t element) {
    const uint64_t counter = element | uint64_t(1) << 63;
    return Philox::block(mask.seed, counter, mask.offset).word[0] >= other_bits(mask);
}

FASTOPT_HD bool kept(const Mask& mask, uint64_t element) {
    const Philox block = Philox::block(mask.seed, element / kElementsPerBlock, mask.offset);
    const unsigned within = unsigned(element % kElementsPerBlock);
    const uint32_t drawn = block.word[within / 2] >> (within % 2 * 16) & 0xffffu;
    return drawn > first_bits(mask) || (drawn == first_bits(mask) && tie_kept(mask, element));
}

}  // namespace
}  // namespace fastopt
