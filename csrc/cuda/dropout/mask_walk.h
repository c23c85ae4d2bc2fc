// Finds the element of the mask for a place in memory, in any layout.
#pragma once

#include "cuda/divisor.h"
#include "random/task.h"

namespace fastopt::cuda {
namespace {

// The position after some steps.
struct MaskOffset {
    int64_t element, at;              // in the mask, and in memory
    int64_t along_left, across_left;  // until the innermost dimension ends, and the mask's
};

// A layout in steps of several elements: `along` in the innermost dimension, `across` in the dimension that the mask
// runs along where it does not run along memory.
class MaskWalk {
   public:
    MaskWalk(const MaskLayout& layout, int64_t across, int64_t along)
        : ndim_(layout.ndim), across_(layout.across), across_step_(across), along_step_(along) {
        for (int d = 0; d < ndim_; ++d) {
            size_[d] = layout.size[d];
            memory_[d] = layout.memory[d];
            mask_[d] = layout.mask[d];
            const int64_t count = (size_[d] + step(d) - 1) / step(d);
            count_[d] = Divisor(count);
            steps_ *= count;
        }
    }

    FASTOPT_HD int64_t steps() const { return steps_; }

    // The distance in the mask between neighbours in memory.
    __device__ __forceinline__ int64_t stride() const { return mask_[ndim_ - 1]; }

    // The distance in memory between neighbours in the mask.
    __device__ __forceinline__ int64_t row() const { return memory_[across_]; }

    __device__ __forceinline__ MaskOffset place(int64_t i) const {
        MaskOffset place{};
        uint64_t left = uint64_t(i);
        for (int d = ndim_ - 1; d >= 0; --d) {
            const Divisor::Result divided = count_[d].divide(left);
            const int64_t index = int64_t(divided.remainder) * step(d);
            place.element += index * mask_[d];
            place.at += index * memory_[d];
            if (d == ndim_ - 1) place.along_left = size_[d] - index;
            if (d == across_) place.across_left = size_[d] - index;
            left = divided.quotient;
        }
        return place;
    }

   private:
    FASTOPT_HD int64_t step(int d) const { return d == ndim_ - 1 ? along_step_ : d == across_ ? across_step_ : 1; }

    int ndim_, across_;
    int64_t across_step_, along_step_, steps_ = 1;
    Divisor count_[kMaxMaskDims];
    int64_t size_[kMaxMaskDims], memory_[kMaxMaskDims], mask_[kMaxMaskDims];
};

}  // namespace
}  // namespace fastopt::cuda
