#include "engine/norm/layout.h"

#include <algorithm>
#include <numeric>

namespace fastopt {
namespace {

// Elements of a segment up to which walking in the order of memory is faster than finding a channel in the cache.
constexpr int64_t kShortSegment = 128;

// Elements up to which the coefficients of columns are repeated, so that a block is worth a function call. There are
// five such arrays, and L1 must have room for the tensors' elements as well.
constexpr int64_t kRepeat = 256;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void lay_out_planes(NormLayout& l) {
    constexpr int64_t lanes = 32;  // parts of a segment end after full rows of 32, and differ by one row at most
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
    constexpr int64_t lanes = 32;  // several periods form a row, so that columns fill all lanes
    const int64_t period = l.channels * l.inner;
    const int64_t fold = lanes / std::gcd(period, lanes);
    l.columns = period * fold <= kBlock ? period * fold : period;
    l.rows = l.total / l.columns;
    l.rest = l.total % l.columns;
    // Less for small tensors, where filling the arrays would take most of the time.
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
