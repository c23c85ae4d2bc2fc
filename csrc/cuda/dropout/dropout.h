// What the kernels of dropout share: flags, one bit each, and how the lanes of a warp exchange them.
#pragma once

#include "cuda/divisor.h"
#include "cuda/launch.h"
#include "cuda/memory.h"
#include "cuda/warp.h"
#include "random/family.h"
#include "random/task.h"
#include "rules/scalars.h"

namespace fastopt::cuda {

// For a layout whose mask runs across memory.
void drop_across(const Stream& stream, int rule, const DropoutTask& task);

namespace {

constexpr int kWarps = 8;   // of a thread block
constexpr int kBlocks = 2;  // at least, on a multiprocessor: without this bound the compiler saves registers and spills

// A mask whose seed may be known only to the device.
struct DeviceMask {
    Mask known;
    const uint64_t* seed;

    explicit DeviceMask(const DropoutTask& task) : known(task.mask), seed(task.seed) {}

    __device__ __forceinline__ Mask get() const {
        Mask mask = known;
        if (seed != nullptr) mask.seed = *seed;
        return mask;
    }
};

// The flags of a Philox block's elements, the first in the lowest bit.
__device__ __forceinline__ unsigned flags_of_block(const Mask& mask, uint64_t block) {
    if (decided(mask)) return mask.threshold == 0 ? 0xffu : 0u;
    const Philox drawn = Philox::block(mask.seed, block, mask.offset);
    const uint32_t first = first_bits(mask);
    unsigned flags = 0;
    bool tied = false;
    for (int i = kElementsPerBlock - 1; i >= 0; --i) {
        const uint32_t bits = bits_of_element(drawn, unsigned(i));
        flags = flags << 1 | (first - bits) >> 31;  // whether the difference is negative
        tied |= bits == first;
    }
    if (!tied) return flags;
    unsigned ties = 0;
    for (unsigned i = 0; i < kElementsPerBlock; ++i) ties |= unsigned(bits_of_element(drawn, i) == first) << i;
    for (; ties != 0; ties &= ties - 1) {
        const unsigned i = unsigned(__ffs(int(ties)) - 1);
        flags |= unsigned(tie_kept(mask, block * kElementsPerBlock + i)) << i;
    }
    return flags;
}

// The flags of eight elements from any element on: they come from two Philox blocks, unless it is a block's first.
__device__ __forceinline__ unsigned flags_from(const Mask& mask, uint64_t element) {
    const uint64_t block = element / kElementsPerBlock;
    const unsigned skipped = unsigned(element % kElementsPerBlock);
    unsigned flags = flags_of_block(mask, block);
    if (skipped != 0) flags |= flags_of_block(mask, block + 1) << kElementsPerBlock;
    return flags >> skipped & 0xffu;
}

// A warp takes a window of memory. Each lane draws the flags of its share, `kShare` consecutive elements, but reads and
// writes others: in its i-th access `W` elements next to its neighbours', so that the warp's accesses are contiguous.
template <int W>
__device__ __forceinline__ int place_in_window(int i) {
    return (i * kLanes + int(threadIdx.x % kLanes)) * W;
}

// The flags of the elements from `place` on; `flags` are those of the lane's own share. All lanes must call this.
template <int kShare>
__device__ __forceinline__ unsigned flags_at_place(unsigned flags, int place) {
    return __shfl_sync(~0u, flags, place / kShare) >> place % kShare;
}

// Elements per 16-byte access.
template <class Format>
constexpr int kWidth = int(sizeof(uint4) / sizeof(typename Format::Storage));

// One call of a rule.
template <class Rule, class Format>
struct Drop {
    using T = typename Format::Compute;

    DeviceMask mask;
    const void *input, *residual, *bias;
    void* out;
    Divisor columns;  // the bias's columns
    typename Rule::template Scalars<T> scalars;

    explicit Drop(const DropoutTask& task)
        : mask(task),
          input(task.input.data),
          residual(task.residual.data),
          bias(task.bias.data),
          out(task.out.data),
          columns(Rule::bias ? task.columns : 1),
          scalars(round_scalars<Rule::template Scalars, T>(task.scalars)) {}

    // `W` elements of one access, from loading to storing.
    template <int W>
    struct AccessElements {
        Stored<Format, W> x, residual, bias;

        __device__ __forceinline__ void load(const Drop& drop, int64_t at) {
            x.load(drop.input, at);
            if constexpr (Rule::residual) residual.load(drop.residual, at);
            if constexpr (Rule::bias) bias.load(drop.bias, int64_t(drop.columns.divide(uint64_t(at)).remainder));
        }
        __device__ __forceinline__ void apply(const Drop& drop, unsigned flags, T (&results)[W]) const {
            T values[W], residuals[W] = {}, biases[W] = {};
            x.unpack(values);
            if constexpr (Rule::residual) residual.unpack(residuals);
            if constexpr (Rule::bias) bias.unpack(biases);
            FASTOPT_UNROLL
            for (int k = 0; k < W; ++k)
                results[k] =
                    Rule::apply(Operands<T>{values[k], residuals[k], biases[k]}, uint8_t(flags >> k & 1), drop.scalars);
        }
        __device__ __forceinline__ void apply_and_store(const Drop& drop, unsigned flags, int64_t at) const {
            T results[W];
            apply(drop, flags, results);
            Stored<Format, W>::store(drop.out, at, results);
        }
    };
};

// Whether 16-byte accesses can begin at every `width`-th element.
inline bool takes_vectors(const DropoutTask& task, int width) {
    for (const Array& array : {task.input, task.out, task.residual, task.bias})
        if (!is_aligned(array.data)) return false;
    return task.columns % width == 0;
}

// Calls start(Format()) with a type's storage format.
template <class Start>
void with_format(DType type, Start start) {
    switch (type) {
        case DType::f32: return start(Plain<float>());
        case DType::f64: return start(Plain<double>());
        case DType::bf16: return start(Narrow<BFloat16>());
        case DType::f16: return start(Narrow<Float16>());
        default: return;
    }
}

}  // namespace
}  // namespace fastopt::cuda
