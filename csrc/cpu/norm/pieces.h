// Pieces of a channel in memory and out of it.
#pragma once

#include "cpu/block.h"
#include "norm/pieces.h"

namespace fastopt {
namespace {

// At least 16 elements. Compilers would make the loop a call of memcpy, which costs more than a short segment.
template <class T>
FASTOPT_HD void copy_segment(T* __restrict to, const T* __restrict from, int n) {
    constexpr int some = int(kPlane);
    for (int i = 0; i + some <= n; i += some) {
        __builtin_memcpy(to + i, from + i, some * sizeof(T));
        asm volatile("");
    }
    __builtin_memcpy(to + n - some, from + n - some, some * sizeof(T));
}

// As it is stored: the tensor's own memory where it is in one piece; otherwise `buffer`.
template <class Storage>
const Storage* collect(const Array& array, const Piece& piece, Storage* buffer) {
    const Storage* const from = static_cast<const Storage*>(array.data) + piece.at;
    if (piece.segments == 1) return from;
    for (int s = 0; s < piece.segments; ++s)
        copy_segment(buffer + s * piece.length, from + s * piece.stride, piece.length);
    return buffer;
}

// In the compute type: the tensor's own memory where it can be. Null for no tensor.
template <class T>
const T* load_piece(const Array& array, const Piece& piece, T* buffer) {
    if (array.data == nullptr) return nullptr;
    if (array.type == kNative<T>) return collect(array, piece, buffer);
    alignas(64) uint16_t halves[kBlock];
    const uint16_t* const collected = collect(array, piece, halves);
    return load({const_cast<uint16_t*>(collected), array.type}, 0, piece.n(), buffer);
}

// Where to write what store_piece() is to take.
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

// Asks for where results go that come `kPiecesAhead` later when channels are walked one after the other: short segments
// lie in a page each, and stores wait for them. Takes 512 channels of 14 x 14 0.4 to 0.8 of the time; asking for
// inputs as well brought nothing. To be inlined: a function that only asks is one without effects, and compilers drop
// its calls.
constexpr int64_t kPiecesAhead = 4;

template <class... Arrays>
FASTOPT_HD void prefetch_ahead(const NormLayout& l, int64_t channel, int64_t index, const Arrays&... results) {
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

// And for the long segments of what is read for the sums, a piece ahead: hardware prefetchers begin anew with each.
template <class... Arrays>
FASTOPT_HD void prefetch_inputs(const NormLayout& l, int64_t channel, int64_t index, const Arrays&... inputs) {
    if (index + 1 == l.pieces) ++channel;
    if (channel >= l.channels || l.segments_per_piece > 1) return;
    const Piece piece = piece_of(l, channel, (index + 1) % l.pieces);
    const Array* const all[] = {&inputs...};
    for (const Array* input : all) prefetch(*input, piece.at, piece.length);
}

}  // namespace
}  // namespace fastopt
