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

struct PieceMoments {
    Moments moments;
    double count;
};

// Whether a set is one run of elements, in one piece.
FASTOPT_HD bool is_one_piece(const NormLayout& sets) { return sets.outer == 1 && sets.pieces == 1; }

template <class Format, class T>
void moments_of(const NormTask& task, int64_t set, int64_t chunk, double& mean, double& squares) {
    alignas(64) typename Format::Storage buffer[kBlock];
    const NormLayout& l = task.sets;
    const auto moments_of_block = [&](int64_t begin, int64_t end, auto piece_at) {
        Pair<T> sums{};
        T shift{};
        double n = 0;
        for (int64_t k = begin; k < end; ++k) {
            const Piece piece = piece_at(k);
            const auto* const x = collect(task.input, piece, buffer);
            if (k == begin) shift = shift_of<Format, T>(x, piece.n());
            gather_moments<Format>(sums, x, piece.n(), shift);
            n += piece.n();
        }
        const Moments found = moments_from(double(shift), merged(sums.first), merged(sums.second), 1 / n);
        return PieceMoments{found, n};
    };
    if (is_one_piece(l)) {  // short rows, where finding the pieces would take longer than the sums
        const Moments all =
            moments_of_block(0, 1, [&](int64_t) { return Piece{set * l.inner, 1, int(l.inner), 0}; }).moments;
        mean = all.mean;
        squares = all.squares;
        return;
    }
    double count = 0;
    mean = squares = 0;
    for_flush_blocks(pieces_of(l, chunk), [&](PieceRange block) {
        const auto [theirs, n] = moments_of_block(block.begin, block.end, [&](int64_t k) {
            prefetch_inputs(l, set, k, task.input);
            return piece_of(l, set, k);
        });
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
        Pair<T> sums{};
        for (int64_t k = block.begin; k < block.end; ++k) gather(k, sums);
        sum += merged(sums.first);
        products += merged(sums.second);
    });
}

template <class T>
void apply_to_piece(const NormTask& task, const Piece& piece, const OneChannel<T>& numbers) {
    alignas(64) T buffer[kBlock], residual_buffer[kBlock];
    const T* const x = load_piece(task.input, piece, buffer);
    const T* const residual = load_piece(task.residual, piece, residual_buffer);
    T* const out = room_for(task.out, piece, buffer, task.streams);
    normalize(task, x, residual, out, piece.n(), numbers);
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

// Calls visit(piece, index) for the pieces of a channel, or for those of one of its chunks.
template <class Visit>
FASTOPT_HD void for_pieces(const NormLayout& l, int64_t channel, PieceRange range, Visit visit) {
    if (is_one_piece(l)) return visit(Piece{channel * l.inner, 1, int(l.inner), 0}, int64_t{0});
    for (int64_t k = range.begin; k < range.end; ++k) visit(piece_of(l, channel, k), k);
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
void sum_chunk(const NormTask& task, const Channel& channel, int64_t chunk) {
    const NormLayout& l = task.layout;
    const OneChannel<T> numbers{coefficients_of<T>(task, channel), {}};
    double* const pair = task.partials + 2 * (channel.index * l.chunks + chunk);
    if (is_one_piece(l)) {
        Pair<T> sums{};
        gather_piece(task, Piece{channel.index * l.inner, 1, int(l.inner), 0}, numbers, sums);
        pair[0] = merged(sums.first);
        pair[1] = merged(sums.second);
        return;
    }
    sums_of<T>(pieces_of(l, chunk), pair[0], pair[1], [&](int64_t k, Pair<T>& sums) {
        if (passes(task))
            prefetch_inputs(l, channel.index, k, task.input, task.grad);
        else
            prefetch_ahead(l, channel.index, k, task.kept);
        gather_piece(task, piece_of(l, channel.index, k), numbers, sums);
    });
}

template <class T>
void planes_sums(const NormTask& task, int64_t begin, int64_t end) {
    const int64_t chunks = task.layout.chunks;
    for (int64_t unit = begin; unit < end; ++unit) sum_chunk<T>(task, channel_at(task, unit / chunks), unit % chunks);
}

template <class T>
void planes_join_moments(const NormTask& task, int64_t begin, int64_t end) {
    const NormLayout& l = task.sets;
    for (int64_t set = begin; set < end; ++set) {
        const double* const pairs = task.partials + 2 * set * l.chunks;
        double count = double(elements_of(l, pieces_of(l, 0))), mean = pairs[0], squares = pairs[1];
        for (int64_t chunk = 1; chunk < l.chunks; ++chunk) {
            const double* const pair = pairs + 2 * chunk;
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
        finalize_sums<T>(task, channel_at(task, c));
    }
}

// Calls visit(channel) for the channels of a set.
template <class Visit>
FASTOPT_HD void for_channels(const NormTask& task, int64_t set, Visit visit) {
    Channel c = channel_at(task, set * task.group);
    for (int64_t k = 0; k < task.group; ++k, ++c.index, ++c.parameter) visit(c);
}

// Sets that go through each step together: short ones would wait for one another's divisions and roots.
constexpr int64_t kMostTogether = 16;

FASTOPT_HD int64_t sets_together(const NormLayout& sets) {
    const int64_t fit = sets.outer > 1 ? 1 : 2 * kBlock / sets.inner;
    return fit < 1 ? 1 : fit < kMostTogether ? fit : kMostTogether;
}

template <class T>
void planes_forward(const NormTask& task, int64_t begin, int64_t end) {
    const NormLayout& l = task.layout;
    const int64_t of_set = task.sets.chunks, together = sets_together(task.sets);
    for (int64_t first = begin; first < end; first += together) {
        const int64_t last = end - first < together ? end : first + together;
        add_summands<T>(task, first * task.sets.inner, last * task.sets.inner);
        planes_moments<T>(task, first * of_set, last * of_set);
        planes_join_moments<T>(task, first, last);
        for (int64_t set = first; set < last; ++set) finalize_statistics(task, set);
        for (int64_t set = first; set < last; ++set)
            for_channels(task, set, [&](const Channel& c) {
                const OneChannel<T> numbers{coefficients_of<T>(task, c), {}};
                for_pieces(l, c.index, {0, l.pieces}, [&](const Piece& piece, int64_t k) {
                    if (!task.streams && l.outer > 1) prefetch_ahead(l, c.index, k, task.out);
                    apply_to_piece(task, piece, numbers);
                });
            });
    }
    finish_streams();
}

template <class T>
void planes_backward(const NormTask& task, int64_t begin, int64_t end) {
    const NormLayout& l = task.layout;
    for (int64_t set = begin; set < end; ++set) {
        const int64_t first = set * task.group;
        for_channels(task, set, [&](const Channel& c) {
            for (int64_t chunk = 0; chunk < l.chunks; ++chunk) sum_chunk<T>(task, c, chunk);
        });
        planes_join_sums<T>(task, first, first + task.group);
        const Projection<T> less = projection_of<T>(task, set);
        for_channels(task, set, [&](const Channel& c) {
            const OneChannel<T> numbers{coefficients_of<T>(task, c), less};
            for_pieces(l, c.index, {0, l.pieces}, [&](const Piece& piece, int64_t k) {
                if (!task.streams && l.outer > 1) prefetch_ahead(l, c.index, k, task.grad_residual, task.grad_input);
                gradient_of_piece(task, piece, numbers);
            });
        });
    }
    finish_streams();
}

}  // namespace
}  // namespace fastopt
