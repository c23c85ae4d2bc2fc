// Loads and stores pieces of a channel.
#pragma once

#include "cpu/block.h"
#include "norm/pieces.h"

namespace fastopt {
namespace {

// Whether a set or channel is one run of elements, in one piece.
FASTOPT_HD bool is_one_piece(const NormLayout& l) { return l.outer == 1 && l.pieces == 1; }

// A piece of a set or channel. In short rows, divisions would take longer than the sums.
FASTOPT_HD Piece piece_at(const NormLayout& l, int64_t channel, int64_t index) {
    return is_one_piece(l) ? Piece{channel * l.inner, 1, int(l.inner), 0} : piece_of(l, channel, index);
}

// Copies at least 16 elements. The asm keeps compilers from calling memcpy, which costs more than a short segment.
template <class T>
FASTOPT_HD void copy_segment(T* __restrict to, const T* __restrict from, int n) {
    constexpr int some = int(kPlane);
    for (int i = 0; i + some <= n; i += some) {
        __builtin_memcpy(to + i, from + i, some * sizeof(T));
        asm volatile("");
    }
    __builtin_memcpy(to + n - some, from + n - some, some * sizeof(T));
}

// A piece in its storage type: the tensor's own memory where the piece is contiguous, otherwise `buffer`.
template <class Storage>
const Storage* collect(const Array& array, const Piece& piece, Storage* buffer) {
    const Storage* const from = static_cast<const Storage*>(array.data) + piece.at;
    if (piece.segments == 1) return from;
    for (int s = 0; s < piece.segments; ++s)
        copy_segment(buffer + s * piece.length, from + s * piece.stride, piece.length);
    return buffer;
}

// A piece in the compute type: the tensor's own memory where possible. Null where there is no tensor.
template <class T>
const T* load_piece(const Array& array, const Piece& piece, T* buffer) {
    if (array.data == nullptr) return nullptr;
    if (array.type == kNative<T>) return collect(array, piece, buffer);
    alignas(64) uint16_t halves[kBlock];
    const uint16_t* const collected = collect(array, piece, halves);
    return load({const_cast<uint16_t*>(collected), array.type}, 0, piece.n(), buffer);
}

// Where to write what store_piece() takes.
template <class T>
T* room_for(const Array& array, const Piece& piece, T* buffer, bool streams = false) {
    const bool own = piece.segments == 1 && array.type == kNative<T> && !streams;
    return own ? static_cast<T*>(array.data) + piece.at : buffer;
}

template <class T>
void store_piece(const Array& array, const Piece& piece, const T* values, bool streams = false) {
    if (piece.segments > 1 && array.type == kNative<T>) {
        T* const to = static_cast<T*>(array.data) + piece.at;
        for (int s = 0; s < piece.segments; ++s)
            copy_segment(to + s * piece.stride, values + s * piece.length, piece.length);
        return;
    }
    for (int s = 0; s < piece.segments; ++s)
        store(array, piece.at + s * piece.stride, piece.length, values + s * piece.length, streams);
}

// Prefetches where the results `kPiecesAhead` later go, in a walk through channel after channel: each short segment
// lies on another page, and stores would wait for it. Prefetching inputs as well saved no time. Must be inlined:
// compilers drop calls of a function that only prefetches, because it has no effects.
constexpr int64_t kPiecesAhead = 4;

template <class... Arrays>
FASTOPT_HD void prefetch_ahead(const NormLayout& l, int64_t channel, int64_t index, const Arrays&... results) {
    if (l.outer == 1) return;
    const int64_t later = index + kPiecesAhead;
    channel += later / l.pieces;
    if (channel >= l.channels) return;
    const Piece piece = piece_of(l, channel, later % l.pieces);
    const Array* const all[] = {&results...};
    for (const Array* result : all) {
        if (result->data == nullptr) continue;
        for (int s = 0; s < piece.segments; ++s) prefetch<true>(*result, piece.at + s * piece.stride, piece.length);
    }
}

// Prefetches one piece ahead in long segments that are read for sums: each segment restarts hardware prefetchers.
template <class... Arrays>
FASTOPT_HD void prefetch_inputs(const NormLayout& l, int64_t channel, int64_t index, const Arrays&... inputs) {
    if (is_one_piece(l)) return;
    if (index + 1 == l.pieces) ++channel;
    if (channel >= l.channels || l.segments_per_piece > 1) return;
    const Piece piece = piece_of(l, channel, (index + 1) % l.pieces);
    const Array* const all[] = {&inputs...};
    for (const Array* input : all) prefetch(*input, piece.at, piece.length);
}

}  // namespace
}  // namespace fastopt
