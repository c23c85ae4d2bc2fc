// Flags, one byte per element: 1 kept, 0 dropped.
#pragma once

#include "../random/task.h"
#include "block.h"
#include "philox.h"

namespace fastopt {
namespace {

// Flags of the `n` elements from `element` on.
inline void fill_flags(const Mask& mask, uint64_t element, int64_t n, uint8_t* flags) {
    if (mask.threshold == 0 || mask.threshold >= Mask::kCertain) {
        __builtin_memset(flags, mask.threshold == 0, size_t(n));
        return;
    }
    constexpr int vector = kCounters * kElementsPerBlock;
    alignas(64) uint16_t drawn[kBlock + kInterleaved * vector];
    const uint16_t first = uint16_t(first_bits(mask));
    while (n > 0) {
        const int skipped = int(element % kElementsPerBlock);
        const int count = int(n < kBlock - skipped ? n : kBlock - skipped);
        uint64_t block = element / kElementsPerBlock;
        int filled = 0;
        for (; filled + (kInterleaved - 1) * vector < skipped + count; filled += kInterleaved * vector) {
            random_blocks<kInterleaved>(mask, block, drawn + filled);
            block += kInterleaved * kCounters;
        }
        for (; filled < skipped + count; filled += vector, block += kCounters)
            random_blocks<1>(mask, block, drawn + filled);

        const uint16_t* const from = drawn + skipped;
        uint16_t tie = 0;
        for (int i = 0; i < count; ++i) {
            flags[i] = from[i] >= first;
            tie = uint16_t(tie | (from[i] == first));
        }
        if (tie && other_bits(mask) != 0)
            for (int i = 0; i < count; ++i)
                if (from[i] == first) flags[i] = tie_kept(mask, element + uint64_t(i));
        element += uint64_t(count);
        flags += count;
        n -= count;
    }
}

// Walks the dimensions of a layout: the element of the mask at a position in memory, run after run.
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
    int64_t run() const {
        return layout_.size[layout_.ndim - 1] - index_[layout_.ndim - 1];
    }  // to the end of the innermost
    void advance(int64_t n) {  // at most run()
        int d = layout_.ndim - 1;
        index_[d] += n;
        element_ += n * layout_.mask[d];
        for (; d > 0 && index_[d] == layout_.size[d]; --d) {
            element_ += layout_.mask[d - 1] - index_[d] * layout_.mask[d];
            index_[d] = 0;
            ++index_[d - 1];
        }
    }

   private:
    const MaskLayout& layout_;
    int64_t index_[kMaxMaskDims];
    int64_t element_ = 0;
};

// Flags along memory, where the mask runs along it or the innermost dimension shares one element.
class Flags {
   public:
    Flags(const Mask& mask, const MaskLayout& layout, int64_t at) : mask_(mask), layout_(layout), walk_(layout, at) {}

    // The next `n` of them, at most kBlock.
    const uint8_t* next(int n) {
        const int inner = layout_.ndim - 1;
        int64_t last_element = -1;
        int last_count = 0;
        for (int done = 0; done < n;) {
            const int64_t element = walk_.element();
            const int count = int(walk_.run() < n - done ? walk_.run() : n - done);
            if (layout_.mask[inner] == 0)
                __builtin_memset(flags_ + done, shared(element), size_t(count));
            else if (element == last_element && count == last_count)  // an outer dimension shares the run
                __builtin_memcpy(flags_ + done, flags_ + done - count, size_t(count));
            else
                fill_flags(mask_, uint64_t(element), count, flags_ + done);
            last_element = element;
            last_count = count;
            walk_.advance(count);
            done += count;
        }
        return flags_;
    }

   private:
    // One flag, from a window that serves its neighbours too.
    uint8_t shared(int64_t element) {
        if (window_ != element / kWindow) {
            window_ = element / kWindow;
            fill_flags(mask_, uint64_t(window_ * kWindow), kWindow, window_flags_);
        }
        return window_flags_[element % kWindow];
    }

    static constexpr int kWindow = 256;
    const Mask& mask_;
    const MaskLayout& layout_;
    Walk walk_;
    int64_t window_ = -1;
    alignas(64) uint8_t flags_[kBlock];
    uint8_t window_flags_[kWindow];
};

// A tile of a layout whose mask runs across memory: its first element, in the mask and in memory, and
// its two extents.
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

// [along][across] flags as [across][along].
inline void transpose(const uint8_t* __restrict from, int64_t across, int64_t along, uint8_t* __restrict to) {
    for (int64_t i = 0; i < across; ++i)
        for (int64_t k = 0; k < along; ++k) to[i * along + k] = from[k * across + i];
}

}  // namespace
}  // namespace fastopt
