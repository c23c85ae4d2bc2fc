// Flags, one byte per element: 1 means kept, 0 means dropped.
#pragma once

#include "cpu/block.h"
#include "cpu/philox.h"
#include "random/task.h"

namespace fastopt {
namespace {

// Writes a flag for each number. Returns whether any number ties with the threshold.
inline bool write_flags(const uint16_t* __restrict drawn, uint16_t first, int n, uint8_t* __restrict flags) {
    int i = 0;
    bool ties = false;
#if defined(__AVX512BW__)  // compares into mask registers, which compilers do not do for bytes
    const __m512i firsts = _mm512_set1_epi16(static_cast<short>(first));
    __mmask32 equal = 0;
    for (; i + 32 <= n; i += 32) {
        const __m512i some = _mm512_loadu_si512(drawn + i);
        equal |= _mm512_cmpeq_epi16_mask(some, firsts);
        const __m256i kept = _mm256_maskz_set1_epi8(_mm512_cmpge_epu16_mask(some, firsts), 1);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(flags + i), kept);
    }
    ties = equal != 0;
#endif
    uint16_t tie = 0;
    for (; i < n; ++i) {
        flags[i] = drawn[i] >= first;
        tie = uint16_t(tie | (drawn[i] == first));
    }
    return ties || tie != 0;
}

// Writes the flags of the `n` elements from `element` on.
FASTOPT_NOINLINE void fill_flags(const Mask& mask, uint64_t element, int64_t n, uint8_t* flags) {
    if (decided(mask)) {
        __builtin_memset(flags, mask.threshold == 0, size_t(n));
        return;
    }
    constexpr int vector = kCounters * kElementsPerBlock;
    alignas(64) uint16_t drawn[kBlock + kInterleaved * vector];
    const RoundKeys keys = round_keys(mask.seed);
    const uint16_t first = uint16_t(first_bits(mask));
    while (n > 0) {
        const int skipped = int(element % kElementsPerBlock);
        const int count = int(n < kBlock - skipped ? n : kBlock - skipped);
        uint64_t block = element / kElementsPerBlock;
        int filled = 0;
        for (; filled + (kInterleaved - 1) * vector < skipped + count; filled += kInterleaved * vector) {
            random_blocks<kInterleaved>(keys, mask.offset, block, drawn + filled);
            block += kInterleaved * kCounters;
        }
        for (; filled < skipped + count; filled += vector, block += kCounters)
            random_blocks<1>(keys, mask.offset, block, drawn + filled);

        const uint16_t* const from = drawn + skipped;
        if (write_flags(from, first, count, flags) && other_bits(mask) != 0)
            for (int i = 0; i < count; ++i)
                if (from[i] == first) flags[i] = tie_kept(mask, element + uint64_t(i));
        element += uint64_t(count);
        flags += count;
        n -= count;
    }
}

// Walks the dimensions of a layout, run after run, and knows which element of the mask belongs to a position in memory.
class Walk {
   public:
    Walk(const MaskLayout& layout, int64_t at) : layout_(layout) {
        for (int d = layout.ndim - 1; d >= 0; --d) {
            index_[d] = at % layout.size[d];
            at /= layout.size[d];
            element_ += index_[d] * layout.mask[d];
        }
    }
    int64_t element() const { return element_; }
    int64_t along() const { return index_[layout_.ndim - 1]; }  // the position in the innermost run
    void advance(int64_t n) {
        int d = layout_.ndim - 1;
        index_[d] += n;
        element_ += n * layout_.mask[d];
        for (; d > 0 && index_[d] >= layout_.size[d]; --d) {
            const int64_t runs = index_[d] / layout_.size[d];
            index_[d] -= runs * layout_.size[d];
            index_[d - 1] += runs;
            element_ += runs * (layout_.mask[d - 1] - layout_.size[d] * layout_.mask[d]);
        }
    }
    // Elements that remain until dimension `d` ends.
    int64_t left(int d) const {
        int64_t count = layout_.size[d] - index_[d];
        while (++d < layout_.ndim) count = count * layout_.size[d] - index_[d];
        return count;
    }

   private:
    const MaskLayout& layout_;
    int64_t index_[kMaxMaskDims];
    int64_t element_ = 0;
};

// Flags in the order of memory, where the mask runs along it or the innermost dimension shares one element.
class Flags {
   public:
    Flags(const Mask& mask, const MaskLayout& layout, int64_t at)
        : mask_(mask), layout_(layout), walk_(layout, at), inner_(layout.ndim - 1) {
        const int64_t run = layout.size[inner_];
        repeats_ = inner_ > 0 && layout.mask[inner_ - 1] == 0 && run <= kWindow;
        if (repeats_) window_size_ = kWindow / run * run;
    }

    // Returns the next `n` flags; n is at most kBlock.
    const uint8_t* next(int n) {
        for (int done = 0; done < n;) {
            int64_t count = walk_.left(repeats_ ? inner_ - 1 : inner_);
            if (count > n - done) count = n - done;
            if (layout_.mask[inner_] == 0)
                __builtin_memset(flags_ + done, shared(walk_.element()), size_t(count));
            else if (repeats_)
                count = repeated(flags_ + done, count);
            else
                fill_flags(mask_, uint64_t(walk_.element()), count, flags_ + done);
            walk_.advance(count);
            done += int(count);
        }
        return flags_;
    }

   private:
    // Returns one flag: from a window if the element follows the last one, as channels do; otherwise draws it alone.
    uint8_t shared(int64_t element) {
        constexpr int64_t few = 256;
        const int64_t first = element / few * few;
        const bool follows = element == last_ + 1;
        last_ = element;
        if (window_ != first) {
            if (!follows) return kept(mask_, uint64_t(element));
            fill_flags(mask_, uint64_t(first), few, window_flags_);
            window_ = first;
        }
        return window_flags_[element - first];
    }

    // Writes runs that an outer dimension shares, from a window filled with copies of one run. Returns the number of
    // flags written.
    int64_t repeated(uint8_t* flags, int64_t count) {
        const int64_t run = layout_.size[inner_], first = walk_.element() - walk_.along();
        if (window_ != first) {
            fill_flags(mask_, uint64_t(first), run, window_flags_);
            for (int64_t i = run; i < window_size_; ++i) window_flags_[i] = window_flags_[i - run];
            window_ = first;
        }
        if (count > window_size_ - walk_.along()) count = window_size_ - walk_.along();
        __builtin_memcpy(flags, window_flags_ + walk_.along(), size_t(count));
        return count;
    }

    static constexpr int kWindow = 2048;
    const Mask& mask_;
    const MaskLayout& layout_;
    Walk walk_;
    const int inner_;
    bool repeats_;
    int64_t last_ = -1;    // the last shared element
    int64_t window_ = -1;  // the first element in the window
    int64_t window_size_ = 0;
    alignas(64) uint8_t flags_[kBlock];
    uint8_t window_flags_[kWindow];
};

// A tile of a layout whose mask runs across memory: its first element in the mask and in memory, and its two extents.
struct TilePosition {
    int64_t element, at, across, along;
};

FASTOPT_HD TilePosition tile_position(const MaskLayout& layout, int64_t tile) {
    const int inner = layout.ndim - 1;
    TilePosition t{};
    for (int d = inner; d >= 0; --d) {
        const int64_t step = d == inner ? kAlong : d == layout.across ? kAcross : 1;
        const int64_t tiles = (layout.size[d] + step - 1) / step;
        const int64_t index = tile % tiles * step;
        tile /= tiles;
        t.element += index * layout.mask[d];
        t.at += index * layout.memory[d];
        const int64_t extent = layout.size[d] - index < step ? layout.size[d] - index : step;
        if (d == inner) t.along = extent;
        if (d == layout.across) t.across = extent;
    }
    return t;
}

// Interleaves the two halves, as in a riffle shuffle.
inline void riffle(const uint8_t* __restrict from, int64_t half, uint8_t* __restrict to) {
    FASTOPT_VECTORIZE
    for (int64_t i = 0; i < half; ++i) {
        to[2 * i] = from[i];
        to[2 * i + 1] = from[half + i];
    }
}

// Transposes flags from [along][across] to [across][along]; overwrites `flags`. k riffles transpose a matrix of 2^k
// rows, and vectorise better than a copy of single elements.
inline const uint8_t* transpose(uint8_t* flags, int64_t across, int64_t along, uint8_t* space) {
    if ((along & (along - 1)) != 0) {
        for (int64_t i = 0; i < across; ++i)
            for (int64_t k = 0; k < along; ++k) space[i * along + k] = flags[k * across + i];
        return space;
    }
    for (int64_t k = 1; k < along; k *= 2) {
        riffle(flags, across * along / 2, space);
        uint8_t* const turned = space;
        space = flags;
        flags = turned;
    }
    return flags;
}

}  // namespace
}  // namespace fastopt
