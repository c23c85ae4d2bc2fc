// The dropout family where the mask runs along memory, or where neighbouring elements share a flag.
#include "cuda/dropout/dropout.h"
#include "cuda/dropout/mask_walk.h"

namespace fastopt::cuda {
namespace {

// Memory in the order of the mask.
struct InOrder {
    template <int kShare>
    __device__ __forceinline__ unsigned flags(const Mask& mask, int64_t at) const {
        unsigned flags = 0;
        FASTOPT_UNROLL
        for (int i = 0; i < kShare; i += kElementsPerBlock)
            flags |= flags_of_block(mask, uint64_t(at + i) / kElementsPerBlock) << i;
        return flags;
    }
};

// Any other layout, run by run. A run often continues in the Philox block of the one before.
struct ByLayout {
    MaskWalk walk;

    template <int kShare>
    __device__ __forceinline__ unsigned flags(const Mask& mask, int64_t at) const {
        const bool shared = walk.stride() == 0;
        int64_t block = -1;
        unsigned of_block = 0, flags = 0;
        for (int done = 0; done < kShare;) {
            const MaskOffset place = walk.place(at + done);
            const int within = int(place.element % kElementsPerBlock);
            if (place.element / kElementsPerBlock != block) {
                block = place.element / kElementsPerBlock;
                of_block = flags_of_block(mask, uint64_t(block));
            }
            const int most = shared ? kShare : kElementsPerBlock - within;
            const int count = int(place.along_left < most ? place.along_left : most);
            const unsigned here = shared ? 0u - (of_block >> within & 1) : of_block >> within;
            flags |= (here & ((1u << count) - 1)) << done;
            done += count;
        }
        return flags;
    }
};

// 32 bytes of most types, so that a lane has enough loads in flight: in a half type, the elements of two Philox blocks.
template <class Format>
constexpr int kShare = sizeof(typename Format::Storage) == 2 ? 2 * kElementsPerBlock : kElementsPerBlock;

template <class Format>
constexpr int kWindow = kShare<Format> * kLanes;

// The first `n` elements of a window, `W` per access. `kAtOnce` accesses are in flight together; the first ones while
// flags are drawn.
template <int W, int kAtOnce, class Rule, class Format, class Order>
__device__ __forceinline__ void drop_window(const Drop<Rule, Format>& drop, const Order& order, int64_t window, int n) {
    unsigned drawn = 0;
    FASTOPT_ROLL
    for (int first = 0; first < kShare<Format> / W; first += kAtOnce) {
        typename Drop<Rule, Format>::template AccessElements<W> elements[kAtOnce] = {};
        FASTOPT_UNROLL
        for (int i = 0; i < kAtOnce; ++i) {
            const int place = place_in_window<W>(first + i);
            if (place < n) elements[i].load(drop, window + place);
        }
        if (first == 0)
            drawn = order.template flags<kShare<Format>>(drop.mask.get(), window + place_in_window<kShare<Format>>(0));
        FASTOPT_UNROLL
        for (int i = 0; i < kAtOnce; ++i) {
            const int place = place_in_window<W>(first + i);
            const unsigned flags = flags_at_place<kShare<Format>>(drawn, place);
            if (place < n) elements[i].apply_and_store(drop, flags, window + place);
        }
    }
}

// A warp takes one window. Each element is read once and written once, and a residual is read once: in bfloat16, memory
// leaves time for so few instructions per element that each one counts.
template <class Rule, class Format, class Order>
__global__ void __launch_bounds__(kWarps* kLanes, kBlocks)
    drop_along(const __grid_constant__ Drop<Rule, Format> drop, const __grid_constant__ Order order, int64_t n,
               bool vectors) {
    constexpr int W = kWidth<Format>;
    const int64_t window = (int64_t(blockIdx.x) * kWarps + threadIdx.x / kLanes) * kWindow<Format>;
    if (window >= n) return;
    if (vectors && n - window >= kWindow<Format>)
        drop_window<W, kShare<Format> / W>(drop, order, window, kWindow<Format>);
    else
        drop_window<1, W>(drop, order, window, n - window < kWindow<Format> ? int(n - window) : kWindow<Format>);
}

template <class Rule>
void start(const Stream& stream, const DropoutTask& task) {
    const MaskLayout& layout = *task.layout;
    const int64_t n = layout.units;
    with_format(task.out.type, [&](auto format) {
        using Format = decltype(format);
        const Drop<Rule, Format> drop(task);
        const bool vectors = takes_vectors(task, kWidth<Format>);
        const Grid grid{(n + kWarps * kWindow<Format> - 1) / (kWarps * kWindow<Format>), kWarps * kLanes};
        if (layout.ndim == 1 && layout.mask[0] == 1)
            launch(stream, "dropout", drop_along<Rule, Format, InOrder>, grid, drop, InOrder{}, n, vectors);
        else
            launch(stream, "dropout", drop_along<Rule, Format, ByLayout>, grid, drop, ByLayout{MaskWalk(layout, 1, 1)},
                   n, vectors);
    });
}

#define FASTOPT_START(name, Rule) start<Rule>,
constexpr void (*starts[])(const Stream&, const DropoutTask&) = {FASTOPT_DROPOUTS(FASTOPT_START)};

}  // namespace

void drop(const Stream& stream, int rule, const DropoutTask& task) {
    if (task.layout->across < 0)
        starts[rule](stream, task);
    else
        drop_across(stream, rule, task);
}

}  // namespace fastopt::cuda
