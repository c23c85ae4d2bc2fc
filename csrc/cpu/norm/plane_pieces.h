// The work on one piece of a channel whose elements lie in segments.
#pragma once

#include "cpu/norm/loops.h"
#include "cpu/norm/pieces.h"
#include "cpu/norm/sums.h"
#include "norm/channel.h"

namespace fastopt {
namespace {

// Calls visit(pieces) for each flush block of a chunk, in order.
template <class Visit>
FASTOPT_HD void for_flush_blocks(PieceRange chunk, Visit visit) {
    for_batches(chunk.begin, chunk.end, kFlushPieces,
                [&](int64_t begin, int64_t end) { visit(PieceRange{begin, end}); });
}

// The first elements of a flush block, whose mean is its shift.
FASTOPT_HD int shift_elements(int n) {
    constexpr int most = int(kShiftRows) * kLanes;
    return n < most ? n : most;
}

// Adds them, less the first one.
template <class Format, class T>
FASTOPT_HD void gather_shift(Pair<T>& sums, const typename Format::Storage* values, int n) {
    gather_moments<false, Format>(sums, values, shift_elements(n), T(Format::load(values[0])));
}

template <class Format, class T>
FASTOPT_HD T shift_of(const typename Format::Storage* values, int n, double sum) {
    return shift_from(T(Format::load(values[0])), sum, 1.0 / shift_elements(n));
}

// Sets of one piece each, at most kMostTogether. Each step runs for all of them before the next one.
template <class Format, class T>
void moments_of_pieces(const NormTask& task, int64_t begin, int64_t end) {
    const int n = int(task.sets.inner);
    const auto* const values = stored<Format>(task.input, begin * n);
    const int64_t count = end - begin;
    Pair<T> sums[kMostTogether];
    T shifts[kMostTogether];
    for (int64_t k = 0; k < count; ++k) {
        sums[k].empty = true;
        gather_shift<Format>(sums[k], values + k * n, n);
    }
    for (int64_t k = 0; k < count; ++k) shifts[k] = shift_of<Format, T>(values + k * n, n, merged(sums[k].first));
    for (int64_t k = 0; k < count; ++k) {
        sums[k].empty = true;
        gather_moments<true, Format>(sums[k], values + k * n, n, shifts[k]);
    }
    const MergedPairs all(sums, count);
    for (int64_t k = 0; k < count; ++k) {
        const Moments own = moments_from(double(shifts[k]), all.first[k], all.second[k], 1.0 / n);
        task.partials[2 * (begin + k)] = own.mean;
        task.partials[2 * (begin + k) + 1] = own.squares;
    }
}

template <class Format, class T>
void moments_of(const NormTask& task, int64_t set, int64_t chunk, double& mean, double& squares) {
    alignas(64) typename Format::Storage buffer[kBlock];
    const NormLayout& l = task.sets;
    double count = 0;
    mean = squares = 0;
    for_flush_blocks(pieces_of(l, chunk), [&](PieceRange block) {
        Pair<T> sums;
        T shift{};
        double n = 0;
        for (int64_t k = block.begin; k < block.end; ++k) {
            const Piece piece = piece_at(l, set, k);
            prefetch_inputs(l, set, k, task.input);
            const auto* const x = collect(task.input, piece, buffer);
            if (k == block.begin) {
                Pair<T> first;
                gather_shift<Format>(first, x, piece.n());
                shift = shift_of<Format, T>(x, piece.n(), merged(first.first));
            }
            gather_moments<true, Format>(sums, x, piece.n(), shift);
            n += piece.n();
        }
        const Moments theirs = moments_from(double(shift), merged(sums.first), merged(sums.second), 1 / n);
        if (count == 0) {
            mean = theirs.mean;
            squares = theirs.squares;
        } else {
            join(mean, squares, theirs.mean, theirs.squares, share(count, n));
        }
        count += n;
    });
}

// The gradient of z. It is stored for later where there is room.
template <class T>
const T* activation_backward(const NormTask& task, const Piece& piece, const T* x, const OneChannel<T>& channel,
                             T* grad_buffer, T* residual_buffer) {
    const T* const grad = load_piece(task.grad, piece, grad_buffer);
    if (passes(task)) return grad;
    const T* const residual = load_piece(task.residual, piece, residual_buffer);
    const bool keeps = task.kept.data != nullptr;
    T* const out = keeps ? room_for(task.kept, piece, grad_buffer) : grad_buffer;
    activation_gradient(task, grad, x, residual, out, piece.n(), channel);
    if (keeps) store_piece(task.kept, piece, out);
    return out;
}

// Sums a piece where the incoming gradient is the gradient of z.
template <class Format, class T>
void gather_stored(const NormTask& task, const Piece& piece, T center, Pair<T>& sums) {
    alignas(64) typename Format::Storage x_buffer[kBlock], grad_buffer[kBlock];
    const auto* const x = collect(task.input, piece, x_buffer);
    const auto* const grad = collect(task.grad, piece, grad_buffer);
    gather_products<Format>(sums, grad, x, piece.n(), center);
}

// Sums a piece where the gradient of z is computed first.
template <class T>
void gather_computed(const NormTask& task, const Piece& piece, const OneChannel<T>& numbers, Pair<T>& sums) {
    alignas(64) T x_buffer[kBlock], grad_buffer[kBlock], residual_buffer[kBlock];
    const T* const x = load_piece(task.input, piece, x_buffer);
    const T* const grad = activation_backward(task, piece, x, numbers, grad_buffer, residual_buffer);
    gather_products<Native<T>>(sums, grad, x, piece.n(), numbers.of.center);
}

template <class T>
void gather_piece(const NormTask& task, const Piece& piece, const OneChannel<T>& numbers, Pair<T>& sums) {
    if (!passes(task)) return gather_computed(task, piece, numbers, sums);
    with_format<T>(task.input.type,
                   [&](auto format) { gather_stored<decltype(format)>(task, piece, numbers.of.center, sums); });
}

// Sums a chunk; gather(index, sums) adds one piece.
template <class T, class Gather>
FASTOPT_HD void sums_of(PieceRange chunk, double& sum, double& products, Gather gather) {
    sum = products = 0;
    for_flush_blocks(chunk, [&](PieceRange block) {
        Pair<T> sums;
        for (int64_t k = block.begin; k < block.end; ++k) gather(k, sums);
        sum += merged(sums.first);
        products += merged(sums.second);
    });
}

template <class T>
void apply_to_piece(const NormTask& task, const Piece& piece, const OneChannel<T>& numbers) {
    if (piece.segments == 1)
        return with_operands<T>(task, piece.at, piece.n(), [&](auto format, auto x, auto residual, auto out) {
            normalize<decltype(format), T>(task, x, residual, out, piece.n(), numbers);
        });
    alignas(64) T buffer[kBlock], residual_buffer[kBlock];
    const T* const x = load_piece(task.input, piece, buffer);
    const T* const residual = load_piece(task.residual, piece, residual_buffer);
    T* const out = room_for(task.out, piece, buffer, task.streams);
    normalize<Native<T>, T>(task, x, residual, out, piece.n(), numbers);
    store_piece(task.out, piece, out, task.streams);
}

template <class T>
void gradient_of_piece(const NormTask& task, const Piece& piece, const OneChannel<T>& numbers) {
    alignas(64) T x_buffer[kBlock], grad_buffer[kBlock], residual_buffer[kBlock];
    const T* const x = load_piece(task.input, piece, x_buffer);
    const T* const grad = task.kept.data != nullptr
                              ? load_piece(task.kept, piece, grad_buffer)
                              : activation_backward(task, piece, x, numbers, grad_buffer, residual_buffer);
    if (stores_residual(task)) store_piece(task.grad_residual, piece, grad, task.streams);
    if (task.grad_input.data == nullptr) return;
    T* const out = room_for(task.grad_input, piece, x_buffer, task.streams);
    input_gradient(task, grad, x, out, piece.n(), numbers);
    if (task.grad_sum.data != nullptr) add_onto(out, load_piece(task.grad_sum, piece, residual_buffer), piece.n());
    store_piece(task.grad_input, piece, out, task.streams);
}

}  // namespace
}  // namespace fastopt
