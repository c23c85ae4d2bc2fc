// The forward pass where every element of a row has a weight of its own: a row holds one or more sets of contiguous
// elements, as segments of planes with one sample. Layer and RMS normalization have one set per row.
#pragma once

#include "cpu/norm/planes.h"
#include "cpu/norm/row_loops.h"

namespace fastopt {
namespace {

// A set of elements, and where its weights begin.
struct RowSet {
    int64_t index, first, parameter;
};

FASTOPT_HD RowSet row_set(const NormTask& task, int64_t set) {
    const int64_t length = task.sets.inner;
    return {set, set * length, task.row_sets == 1 ? 0 : set % task.row_sets * length};
}

// Prefetches short sets while the ones before them are computed: hardware prefetchers stop at every page, and a row of
// 1024 float32 is one.
template <class... Arrays>
FASTOPT_HD void prefetch_sets(const NormTask& task, int64_t first, int64_t count, const Arrays&... inputs) {
    const int64_t length = task.sets.inner, left = task.set_count - first;
    if (!is_one_piece(task.sets) || left <= 0) return;
    const Array* const all[] = {&inputs...};
    for (const Array* input : all) prefetch(*input, first * length, int((left < count ? left : count) * length));
}

template <class T>
OneChannel<T> numbers_of_set(const NormTask& task, int64_t set, Projection<T> less = {}) {
    return {coefficients<T>(mean_of(task, set), inverse_std_of(task, set), 1, 0), less};
}

// The sum of squares of a chunk.
template <class Format, class T>
double squares_of(const NormTask& task, int64_t set, int64_t chunk) {
    double sum = 0;
    for_flush_blocks(pieces_of(task.sets, chunk), [&](PieceRange block) {
        Pair<T> sums;
        for (int64_t k = block.begin; k < block.end; ++k) {
            const Piece piece = piece_at(task.sets, set, k);
            gather_squares<Format>(sums, stored<Format>(task.input, piece.at), piece.n());
        }
        sum += merged(sums.second);
    });
    return sum;
}

// The same for sets of one piece each, at most kMostTogether.
template <class Format, class T>
void squares_of_pieces(const NormTask& task, int64_t begin, int64_t end) {
    const int n = int(task.sets.inner);
    Pair<T> sums[kMostTogether];
    for (int64_t k = 0; k < end - begin; ++k) {
        sums[k].empty = true;
        gather_squares<Format>(sums[k], stored<Format>(task.input, (begin + k) * n), n);
    }
    for (int64_t k = 0; k < end - begin; ++k) task.partials[2 * (begin + k)] = merged(sums[k].second);
}

template <class Kind, class T>
void rows_moments(const NormTask& task, int64_t begin, int64_t end) {
    if constexpr (Kind::centered) {
        planes_moments<T>(task, begin, end);
    } else {
        const int64_t chunks = task.sets.chunks;
        with_format<T>(task.input.type, [&](auto format) {
            using Format = decltype(format);
            if (is_one_piece(task.sets))
                return for_batches(begin, end, kMostTogether, [&](int64_t first, int64_t last) {
                    squares_of_pieces<Format, T>(task, first, last);
                });
            for (int64_t unit = begin; unit < end; ++unit)
                task.partials[2 * unit] = squares_of<Format, T>(task, unit / chunks, unit % chunks);
        });
    }
}

template <class Kind, class T>
void rows_finalize(const NormTask& task, int64_t begin, int64_t end) {
    double* const __restrict means = task.statistics;
    double* const __restrict deviations = task.statistics + task.set_count;
    const double count = task.count, eps = task.eps;
    if constexpr (Kind::centered) {
        planes_join_moments<T>(task, begin, end);
        const double* const __restrict moments = task.moments;
        const double* const __restrict squares = task.moments + task.set_count;
        for (int64_t set = begin; set < end; ++set) {
            means[set] = moments[set];
            deviations[set] = inverse_deviation(squares[set] / count, eps);
        }
    } else {
        const int64_t chunks = task.sets.chunks;
        const double* const __restrict partials = task.partials;
        for (int64_t set = begin; set < end; ++set) {
            double squares = 0;
            for (int64_t chunk = 0; chunk < chunks; ++chunk) squares += partials[2 * (set * chunks + chunk)];
            means[set] = 0;
            deviations[set] = inverse_deviation(squares / count, eps);
        }
    }
}

// Elements [at, at + n) of a set.
template <class Kind, class T>
void apply_to_set(const NormTask& task, const RowSet& set, int64_t at, int n, const OneChannel<T>& numbers) {
    const int64_t first = set.first + at, parameter = set.parameter + at;
    const bool rounds = task.rounds_first;
    if (passes(task))
        return with_operands<T>(task, first, n, [&](auto format, const auto* x, const auto*, auto* out) {
            z_of<Kind, decltype(format)>(task, x, parameter, n, numbers, rounds, out);
        });
    alignas(64) T x_buffer[kBlock], z[kBlock];
    z_of<Kind, Native<T>>(task, load(task.input, first, n, x_buffer), parameter, n, numbers, rounds, z);
    activation_loops<T>[task.activation](z, z, n, T(task.negative_slope));
    store(task.out, first, n, z, task.streams);
}

template <class Kind, class T>
void rows_apply(const NormTask& task, int64_t begin, int64_t end) {
    const int64_t length = task.sets.inner, blocks = (length + kBlock - 1) / kBlock;
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t set = unit / blocks, at = unit % blocks * kBlock, left = length - at;
        apply_to_set<Kind>(task, row_set(task, set), at, int(left < kBlock ? left : kBlock),
                           numbers_of_set<T>(task, set));
    }
    finish_streams();
}

template <class Kind, class T>
void rows_forward(const NormTask& task, int64_t begin, int64_t end) {
    const int64_t length = task.sets.inner, chunks = task.sets.chunks;
    for_batches(begin, end, sets_together(task.sets), [&](int64_t first, int64_t last) {
        add_summands<T>(task, first * length, last * length);
        rows_moments<Kind, T>(task, first * chunks, last * chunks);
        rows_finalize<Kind, T>(task, first, last);
        prefetch_sets(task, last, last - first, task.input);
        for (int64_t index = first; index < last; ++index) {
            const RowSet set = row_set(task, index);
            const OneChannel<T> numbers = numbers_of_set<T>(task, index);
            for_batches(0, length, kBlock,
                        [&](int64_t at, int64_t to) { apply_to_set<Kind>(task, set, at, int(to - at), numbers); });
        }
    });
    finish_streams();
}

}  // namespace
}  // namespace fastopt
