// Normalization where a channel's elements lie in long segments (NCHW). Works set by set, so that what the sums have
// read is still in the cache for the elements.
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
    for (int64_t begin = chunk.begin; begin < chunk.end; begin += kFlushPieces) {
        const int64_t end = begin + kFlushPieces;
        visit(PieceRange{begin, end < chunk.end ? end : chunk.end});
    }
}

// Computes the shift from the first piece of a flush block.
template <class Format, class T>
T shift_of(const typename Format::Storage* values, int n) {
    constexpr int most = int(kShiftRows) * kLanes;
    const T first = Format::load(values[0]);
    Pair<T> sums{};
    if (n > most) n = most;
    gather_moments<Format>(sums, values, n, first);
    return shift_from(first, merged(sums.first), 1.0 / n);
}

template <class Format, class T>
void moments_of(const NormTask& task, int64_t set, int64_t chunk, double& mean, double& squares) {
    alignas(64) typename Format::Storage buffer[kBlock];
    double count = 0;
    mean = squares = 0;
    for_flush_blocks(pieces_of(task.sets, chunk), [&](PieceRange block) {
        Pair<T> sums{};
        T shift{};
        double n = 0;
        for (int64_t k = block.begin; k < block.end; ++k) {
            const Piece piece = piece_of(task.sets, set, k);
            prefetch_inputs(task.sets, set, k, task.input);
            const auto* const x = collect(task.input, piece, buffer);
            if (k == block.begin) shift = shift_of<Format, T>(x, piece.n());
            gather_moments<Format>(sums, x, piece.n(), shift);
            n += piece.n();
        }
        const Moments theirs = moments_from(double(shift), merged(sums.first), merged(sums.second), 1 / n);
        join(mean, squares, theirs.mean, theirs.squares, share(count, n));
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
void gather_stored(const NormTask& task, int64_t channel, int64_t index, T center, Pair<T>& sums) {
    alignas(64) typename Format::Storage x_buffer[kBlock], grad_buffer[kBlock];
    const Piece piece = piece_of(task.layout, channel, index);
    prefetch_inputs(task.layout, channel, index, task.input, task.grad);
    const auto* const x = collect(task.input, piece, x_buffer);
    const auto* const grad = collect(task.grad, piece, grad_buffer);
    gather_products<Format>(sums, grad, x, piece.n(), center);
}

// Sums a piece where the gradient of z is computed first.
template <class T>
void gather_computed(const NormTask& task, int64_t channel, int64_t index, const OneChannel<T>& numbers,
                     Pair<T>& sums) {
    alignas(64) T x_buffer[kBlock], grad_buffer[kBlock], residual_buffer[kBlock];
    const Piece piece = piece_of(task.layout, channel, index);
    const T* const x = load_piece(task.input, piece, x_buffer);
    prefetch_ahead(task.layout, channel, index, task.kept);
    const T* const grad = activation_backward(task, piece, x, numbers, grad_buffer, residual_buffer);
    gather_products<Native<T>>(sums, grad, x, piece.n(), numbers.of.center);
}

// Sums a chunk; gather(index, sums) adds one piece.
template <class T, class Gather>
FASTOPT_HD void sums_of(PieceRange chunk, double& sum, double& products, Gather gather) {
    sum = products = 0;
    for_flush_blocks(chunk, [&](PieceRange block) {
        Pair<T> sums{};
        for (int64_t k = block.begin; k < block.end; ++k) gather(k, sums);
        sum += merged(sums.first);
        products += merged(sums.second);
    });
}

template <class T>
void apply_to(const NormTask& task, int64_t channel, int64_t chunk) {
    alignas(64) T buffer[kBlock], residual_buffer[kBlock];
    const PieceRange range = pieces_of(task.layout, chunk);
    const OneChannel<T> numbers{coefficients_of<T>(task, channel), {}};
    for (int64_t k = range.begin; k < range.end; ++k) {
        const Piece piece = piece_of(task.layout, channel, k);
        const T* const x = load_piece(task.input, piece, buffer);
        const T* const residual = load_piece(task.residual, piece, residual_buffer);
        if (!task.streams) prefetch_ahead(task.layout, channel, k, task.out);
        T* const out = room_for(task.out, piece, buffer, task.streams);
        normalize(task, x, residual, out, piece.n(), numbers);
        store_piece(task.out, piece, out, task.streams);
    }
}

template <class T>
void gradient_to(const NormTask& task, int64_t channel, int64_t chunk, Projection<T> less) {
    alignas(64) T x_buffer[kBlock], grad_buffer[kBlock], residual_buffer[kBlock];
    const PieceRange range = pieces_of(task.layout, chunk);
    const OneChannel<T> numbers{coefficients_of<T>(task, channel), less};
    for (int64_t k = range.begin; k < range.end; ++k) {
        const Piece piece = piece_of(task.layout, channel, k);
        const T* const x = load_piece(task.input, piece, x_buffer);
        const T* const grad = task.kept.data != nullptr
                                  ? load_piece(task.kept, piece, grad_buffer)
                                  : activation_backward(task, piece, x, numbers, grad_buffer, residual_buffer);
        if (!task.streams) prefetch_ahead(task.layout, channel, k, task.grad_residual, task.grad_input);
        if (stores_residual(task)) store_piece(task.grad_residual, piece, grad, task.streams);
        if (task.grad_input.data == nullptr) continue;
        T* const out = room_for(task.grad_input, piece, x_buffer, task.streams);
        input_gradient(task, grad, x, out, piece.n(), numbers);
        if (task.grad_sum.data != nullptr) add_onto(out, load_piece(task.grad_sum, piece, residual_buffer), piece.n());
        store_piece(task.grad_input, piece, out, task.streams);
    }
}

// Kernels. Units are (set, chunk) or (channel, chunk) pairs, sets or channels.

template <class T>
void planes_moments(const NormTask& task, int64_t begin, int64_t end) {
    const int64_t chunks = task.sets.chunks;
    with_format<T>(task.input.type, [&](auto format) {
        for (int64_t unit = begin; unit < end; ++unit) {
            double* const pair = task.partials + 2 * unit;
            moments_of<decltype(format), T>(task, unit / chunks, unit % chunks, pair[0], pair[1]);
        }
    });
}

template <class T>
void planes_sums(const NormTask& task, int64_t begin, int64_t end) {
    const int64_t chunks = task.layout.chunks;
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t channel = unit / chunks;
        const PieceRange chunk = pieces_of(task.layout, unit % chunks);
        const OneChannel<T> numbers{coefficients_of<T>(task, channel), {}};
        double* const pair = task.partials + 2 * unit;
        if (passes(task))
            with_format<T>(task.input.type, [&](auto format) {
                sums_of<T>(chunk, pair[0], pair[1], [&](int64_t k, Pair<T>& sums) {
                    gather_stored<decltype(format)>(task, channel, k, numbers.of.center, sums);
                });
            });
        else
            sums_of<T>(chunk, pair[0], pair[1],
                       [&](int64_t k, Pair<T>& sums) { gather_computed(task, channel, k, numbers, sums); });
    }
}

template <class T>
void planes_join_moments(const NormTask& task, int64_t begin, int64_t end) {
    const NormLayout& l = task.sets;
    for (int64_t set = begin; set < end; ++set) {
        double count = 0, mean = 0, squares = 0;
        for (int64_t chunk = 0; chunk < l.chunks; ++chunk) {
            const double* const pair = task.partials + 2 * (set * l.chunks + chunk);
            const double n = double(elements_of(l, pieces_of(l, chunk)));
            join(mean, squares, pair[0], pair[1], share(count, n));
            count += n;
        }
        task.moments[set] = mean;
        task.moments[task.set_count + set] = squares;
    }
}

template <class T>
void planes_join_sums(const NormTask& task, int64_t begin, int64_t end) {
    const NormLayout& l = task.layout;
    for (int64_t c = begin; c < end; ++c) {
        double sum = 0, products = 0;
        for (int64_t chunk = 0; chunk < l.chunks; ++chunk) {
            const double* const pair = task.partials + 2 * (c * l.chunks + chunk);
            sum += pair[0];
            products += pair[1];
        }
        task.sums[c] = sum;
        task.sums[task.channel_count + c] = products;
        finalize_sums<T>(task, c);
    }
}

template <class T>
void planes_forward(const NormTask& task, int64_t begin, int64_t end) {
    const int64_t chunks = task.layout.chunks, of_set = task.sets.chunks;
    for (int64_t set = begin; set < end; ++set) {
        add_summands<T>(task, set * task.sets.inner, (set + 1) * task.sets.inner);
        planes_moments<T>(task, set * of_set, (set + 1) * of_set);
        planes_join_moments<T>(task, set, set + 1);
        finalize_statistics(task, set);
        for (int64_t c = set * task.group; c < (set + 1) * task.group; ++c)
            for (int64_t chunk = 0; chunk < chunks; ++chunk) apply_to<T>(task, c, chunk);
    }
    finish_streams();
}

template <class T>
void planes_backward(const NormTask& task, int64_t begin, int64_t end) {
    const int64_t chunks = task.layout.chunks;
    for (int64_t set = begin; set < end; ++set) {
        const int64_t first = set * task.group, last = first + task.group;
        planes_sums<T>(task, first * chunks, last * chunks);
        planes_join_sums<T>(task, first, last);
        const Projection<T> less = projection_of<T>(task, set);
        for (int64_t c = first; c < last; ++c)
            for (int64_t chunk = 0; chunk < chunks; ++chunk) gradient_to<T>(task, c, chunk, less);
    }
    finish_streams();
}

}  // namespace
}  // namespace fastopt
