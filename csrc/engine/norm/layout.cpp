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

NormLayout lay_out(int64_t total, int64_t channels, int64_t inner, bool planes) {
    NormLayout l{};
    l.channels = channels;
    l.total = total;
    l.inner = inner;
    l.outer = total / (channels * inner);
    l.planes = planes;
    if (planes)
        lay_out_planes(l);
    else
        lay_out_columns(l);
    return l;
}

}  // namespace

NormLayout lay_out_channels(const TensorView& t) {
    const int64_t inner = t.sizes[1] == 1 ? t.numel : t.strides[1];
    return lay_out(t.numel, t.sizes[1], inner, inner >= kPlane);
}

bool lay_out_groups(const TensorView& t, int64_t groups, NormTask& task) {
    const int64_t samples = t.sizes[0], channels = t.sizes[1], total = t.numel / samples;
    if (samples > 1 && t.strides[0] != total) return false;
    const int64_t inner = channels == 1 ? total : t.strides[1], of_set = inner * (channels / groups);
    const bool is_run = channels * inner == total, planes = inner >= kPlane;
    if (planes && !is_run) return false;
    task.sets = is_run ? lay_out(t.numel, samples * groups, of_set, true) : lay_out(total, groups, of_set, false);
    task.layout = planes ? lay_out(t.numel, samples * channels, inner, true) : lay_out(total, channels, inner, false);
    task.samples = planes ? 1 : samples;
    return true;
}

NormLayout lay_out_rows(int64_t rows, int64_t length) { return lay_out(rows * length, rows, length, true); }

Units units_of_sums(const NormLayout& l) {
    if (l.planes) return {l.channels * l.chunks, std::min(l.total / l.channels, kChunk)};
    return {l.chunks * ceil_div(l.columns, kSpan), std::min(l.rows, l.chunk) * std::min(l.columns, kSpan)};
}

}  // namespace fastopt
