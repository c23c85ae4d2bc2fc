#include "engine/norm/layout.h"

#include <algorithm>
#include <numeric>

namespace fastopt {
namespace {

// Elements of a segment up to which it is worth more to walk through the memory than to find a channel in the cache.
constexpr int64_t kShortSegment = 128;

// Elements up to which the coefficients of columns are repeated, for blocks that are worth a call: five arrays, which
// are to leave room in L1 for the tensors'.
constexpr int64_t kRepeat = 256;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void lay_out_planes(NormLayout& l) {
    constexpr int64_t lanes = 32;  // parts of a segment end between full rows of them, and differ by one row at most
    const int64_t rows = ceil_div(l.inner, lanes);
    l.pieces_per_segment = ceil_div(l.inner, kBlock);
    l.segments_per_piece = std::clamp<int64_t>(kBlock / l.inner, 1, l.outer);
    l.piece = rows / l.pieces_per_segment * lanes;
    l.longer = rows % l.pieces_per_segment;
    l.pieces = ceil_div(l.outer, l.segments_per_piece) * l.pieces_per_segment;
    l.chunk = kChunk / kBlock;
    l.chunks = ceil_div(l.pieces, l.chunk);
    l.by_channel = l.segments_per_piece == 1 || l.inner > kShortSegment;
    l.repeat = l.channels;
}

void lay_out_columns(NormLayout& l) {
    constexpr int64_t lanes = 32;  // rows are folded so that columns fill them
    const int64_t period = l.channels * l.inner;
    const int64_t fold = lanes / std::gcd(period, lanes);
    l.columns = period * fold <= kBlock ? period * fold : period;
    l.rows = l.total / l.columns;
    l.rest = l.total % l.columns;
    // Less for small tensors, which would spend their time on it.
    l.repeat = l.columns * std::max<int64_t>(std::min<int64_t>(kRepeat, l.total / 8) / l.columns, 1);
    l.chunk = std::max(kChunk / l.columns / kFlushRows, int64_t{1}) * kFlushRows;
    l.chunks = ceil_div(l.rows, l.chunk);
}

}  // namespace

NormLayout lay_out_channels(const TensorView& t) {
    NormLayout l{};
    l.channels = t.sizes[1];
    l.total = t.numel;
    l.inner = l.channels == 1 ? l.total : t.strides[1];
    l.outer = l.total / (l.channels * l.inner);
    l.planes = l.inner >= kPlane;
    if (l.planes)
        lay_out_planes(l);
    else
        lay_out_columns(l);
    return l;
}

Units units_of_sums(const NormLayout& l) {
    if (l.planes) return {l.channels * l.chunks, std::min(l.total / l.channels, kChunk)};
    return {l.chunks * ceil_div(l.columns, kSpan), std::min(l.rows, l.chunk) * std::min(l.columns, kSpan)};
}

}  // namespace fastopt
