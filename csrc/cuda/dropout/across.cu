// The dropout family where the mask runs across memory, as in a channels-last or transposed tensor. A thread takes a
// tile: 8 elements along the mask, which one Philox block covers, times 16 bytes along memory.
#include "cuda/dropout/dropout.h"
#include "cuda/dropout/mask_walk.h"

namespace fastopt::cuda {
namespace {

template <class Rule, class Format, int W>
__global__ void __launch_bounds__(kWarps* kLanes, kBlocks)
    drop_tiles(const __grid_constant__ Drop<Rule, Format> drop, const __grid_constant__ MaskWalk walk) {
    const int64_t tile = int64_t(blockIdx.x) * (kWarps * kLanes) + threadIdx.x;
    if (tile >= walk.steps()) return;
    const MaskOffset place = walk.place(tile);
    typename Drop<Rule, Format>::template AccessElements<W> elements[kElementsPerBlock];
    FASTOPT_UNROLL
    for (int i = 0; i < kElementsPerBlock; ++i) {
        const int64_t row = i < place.across_left ? i : place.across_left - 1;  // no branch: repeats the last row
        elements[i].load(drop, place.at + row * walk.row());
    }

    const Mask mask = drop.mask.get();
    uint64_t drawn = 0;  // one byte for each of the W
    FASTOPT_ROLL
    for (int k = 0; k < W; ++k)
        drawn |= uint64_t(flags_from(mask, uint64_t(place.element + k * walk.stride()))) << k * kElementsPerBlock;

    FASTOPT_UNROLL
    for (int i = 0; i < kElementsPerBlock; ++i) {
        unsigned flags = 0;
        FASTOPT_UNROLL
        for (int k = 0; k < W; ++k) flags |= unsigned(drawn >> (k * kElementsPerBlock + i) & 1) << k;
        if (i < place.across_left) elements[i].apply_and_store(drop, flags, place.at + i * walk.row());
    }
}

template <int W, class Rule, class Format>
void start_tiles(const Stream& stream, const Drop<Rule, Format>& drop, const MaskLayout& layout) {
    const MaskWalk walk(layout, kElementsPerBlock, W);
    const Grid grid{(walk.steps() + kWarps * kLanes - 1) / (kWarps * kLanes), kWarps * kLanes};
    launch(stream, "dropout across memory", drop_tiles<Rule, Format, W>, grid, drop, walk);
}

template <class Rule>
void start(const Stream& stream, const DropoutTask& task) {
    const MaskLayout& layout = *task.layout;
    with_format(task.out.type, [&](auto format) {
        using Format = decltype(format);
        const Drop<Rule, Format> drop(task);
        if (takes_vectors(task, kWidth<Format>) && layout.size[layout.ndim - 1] % kWidth<Format> == 0)
            start_tiles<kWidth<Format>>(stream, drop, layout);
        else
            start_tiles<1>(stream, drop, layout);
    });
}

using Start = void (*)(const Stream&, const DropoutTask&);

// Null for a rule with a bias: it takes contiguous tensors only, and the mask runs along their memory.
template <class Rule>
constexpr Start start_of() {
    if constexpr (Rule::bias)
        return nullptr;
    else
        return start<Rule>;
}

#define FASTOPT_START(name, Rule) start_of<Rule>(),
constexpr Start starts[] = {FASTOPT_DROPOUTS(FASTOPT_START)};

}  // namespace

void drop_across(const Stream& stream, int rule, const DropoutTask& task) { starts[rule](stream, task); }

}  // namespace fastopt::cuda
