// Where the pieces of a channel lie in planes, and how many elements they have.
#pragma once

#include "math/sums.h"
#include "norm/task.h"

namespace fastopt {
namespace {

// One segment or part of one, or as many segments as fit into a block: `length` elements each, `stride` apart.
struct Piece {
    int64_t at;
    int segments, length;
    int64_t stride;
    FASTOPT_HD int n() const { return segments * length; }
};

// Where a part of a segment begins.
FASTOPT_HD int64_t begin_of(const NormLayout& l, int64_t part) {
    return part * l.piece + (part < l.longer ? part : l.longer) * kLanes;
}

FASTOPT_HD Piece piece_of(const NormLayout& l, int64_t channel, int64_t index) {
    const int64_t stride = l.channels * l.inner;
    if (l.segments_per_piece > 1) {
        const int64_t first = index * l.segments_per_piece;
        const int64_t left = l.outer - first;
        const int64_t count = left < l.segments_per_piece ? left : l.segments_per_piece;
        return {first * stride + channel * l.inner, int(count), int(l.inner), stride};
    }
    const int64_t part = index % l.pieces_per_segment;
    const int64_t begin = begin_of(l, part), end = begin_of(l, part + 1);
    return {index / l.pieces_per_segment * stride + channel * l.inner + begin, 1,
            int((end < l.inner ? end : l.inner) - begin), stride};
}

struct PieceRange {
    int64_t begin, end;
};

FASTOPT_HD PieceRange pieces_of(const NormLayout& l, int64_t chunk) {
    const int64_t begin = chunk * l.chunk, end = begin + l.chunk;
    return {begin, end < l.pieces ? end : l.pieces};
}

// The number of a channel's elements before a piece.
FASTOPT_HD int64_t elements_before(const NormLayout& l, int64_t piece) {
    if (l.segments_per_piece > 1) {
        const int64_t segments = piece * l.segments_per_piece;
        return (segments < l.outer ? segments : l.outer) * l.inner;
    }
    return piece / l.pieces_per_segment * l.inner + begin_of(l, piece % l.pieces_per_segment);
}

FASTOPT_HD int64_t elements_of(const NormLayout& l, PieceRange pieces) {
    return elements_before(l, pieces.end) - elements_before(l, pieces.begin);
}

}  // namespace
}  // namespace fastopt
