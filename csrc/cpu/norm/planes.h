// Normalization where a channel's elements lie in long segments (NCHW). Works set by set, so that what the sums have
// read is still in the cache for the elements.
#pragma once

#include "cpu/norm/plane_pieces.h"

namespace fastopt {
namespace {

// Kernels. Units are (set, chunk) or (channel, chunk) pairs, sets or channels.

template <class T>
void planes_moments(const NormTask& task, int64_t begin, int64_t end) {
    const int64_t chunks = task.sets.chunks;
    with_format<T>(task.input.type, [&](auto format) {
        using Format = decltype(format);
        if (is_one_piece(task.sets))
            return for_batches(begin, end, kMostTogether,
                               [&](int64_t first, int64_t last) { moments_of_pieces<Format, T>(task, first, last); });
        for (int64_t unit = begin; unit < end; ++unit) {
            double* const pair = task.partials + 2 * unit;
            moments_of<Format, T>(task, unit / chunks, unit % chunks, pair[0], pair[1]);
        }
    });
}

template <class T>
void sum_chunk(const NormTask& task, const Channel& channel, int64_t chunk) {
    const NormLayout& l = task.layout;
    const OneChannel<T> numbers{coefficients_of<T>(task, channel), {}};
    double* const pair = task.partials + 2 * (channel.index * l.chunks + chunk);
    sums_of<T>(pieces_of(l, chunk), pair[0], pair[1], [&](int64_t k, Pair<T>& sums) {
        if (passes(task))
            prefetch_inputs(l, channel.index, k, task.input, task.grad);
        else
            prefetch_ahead(l, channel.index, k, task.kept);
        gather_piece(task, piece_at(l, channel.index, k), numbers, sums);
    });
}

// Channels of one piece each, at most kMostTogether: none waits for the merged sums of the one before.
template <class T>
void sum_pieces(const NormTask& task, int64_t begin, int64_t end) {
    Pair<T> sums[kMostTogether];
    for (int64_t c = begin; c < end; ++c) {
        const Channel channel = channel_at(task, c);
        gather_piece(task, piece_at(task.layout, c, 0), OneChannel<T>{coefficients_of<T>(task, channel), {}},
                     sums[c - begin]);
    }
    const MergedPairs all(sums, end - begin);
    for (int64_t c = begin; c < end; ++c) {
        task.partials[2 * c] = all.first[c - begin];
        task.partials[2 * c + 1] = all.second[c - begin];
    }
}

template <class T>
void planes_sums(const NormTask& task, int64_t begin, int64_t end) {
    if (is_one_piece(task.layout))
        return for_batches(begin, end, kMostTogether,
                           [&](int64_t first, int64_t last) { sum_pieces<T>(task, first, last); });
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

FASTOPT_HD int64_t sets_together(const NormLayout& sets) {
    const int64_t fit = sets.outer > 1 ? 1 : 2 * kBlock / sets.inner;
    return fit < 1 ? 1 : fit < kMostTogether ? fit : kMostTogether;
}

template <class T>
void planes_forward(const NormTask& task, int64_t begin, int64_t end) {
    const NormLayout& l = task.layout;
    const int64_t of_set = task.sets.chunks;
    for_batches(begin, end, sets_together(task.sets), [&](int64_t first, int64_t last) {
        add_summands<T>(task, first * task.sets.inner, last * task.sets.inner);
        planes_moments<T>(task, first * of_set, last * of_set);
        planes_join_moments<T>(task, first, last);
        for (int64_t set = first; set < last; ++set) finalize_statistics(task, set);
        for (int64_t set = first; set < last; ++set)
            for_channels(task, set, [&](const Channel& c) {
                const OneChannel<T> numbers{coefficients_of<T>(task, c), {}};
                for (int64_t k = 0; k < l.pieces; ++k) {
                    if (!task.streams) prefetch_ahead(l, c.index, k, task.out);
                    apply_to_piece(task, piece_at(l, c.index, k), numbers);
                }
            });
    });
    finish_streams();
}

template <class T>
void planes_backward(const NormTask& task, int64_t begin, int64_t end) {
    const NormLayout& l = task.layout;
    for_batches(begin, end, sets_together(task.sets), [&](int64_t first, int64_t last) {
        planes_sums<T>(task, first * task.group * l.chunks, last * task.group * l.chunks);
        planes_join_sums<T>(task, first * task.group, last * task.group);
        for (int64_t set = first; set < last; ++set) {
            const Projection<T> less = projection_of<T>(task, set);
            for_channels(task, set, [&](const Channel& c) {
                const OneChannel<T> numbers{coefficients_of<T>(task, c), less};
                for (int64_t k = 0; k < l.pieces; ++k) {
                    if (!task.streams) prefetch_ahead(l, c.index, k, task.grad_residual, task.grad_input);
                    gradient_of_piece(task, piece_at(l, c.index, k), numbers);
                }
            });
        }
    });
    finish_streams();
}

}  // namespace
}  // namespace fastopt
