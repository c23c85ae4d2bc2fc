// Normalization where every element of a row has a weight of its own: a row holds one or more sets of contiguous
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

// Calls visit(offset, n) for the blocks of a set.
template <class Visit>
FASTOPT_HD void for_set_blocks(const NormTask& task, Visit visit) {
    const int64_t length = task.sets.inner;
    for (int64_t at = 0; at < length; at += kBlock) visit(at, int(length - at < kBlock ? length - at : kBlock));
}

template <class T>
OneChannel<T> numbers_of_set(const NormTask& task, int64_t set, Projection<T> less = {}) {
    return {coefficients<T>(mean_of(task, set), inverse_std_of(task, set), 1, 0), less};
}

// The sum of squares of a chunk.
template <class Format, class T>
double squares_of(const NormTask& task, int64_t set, int64_t chunk) {
    if (is_one_piece(task.sets)) {
        Pair<T> sums{};
        gather_squares<Format>(sums, stored<Format>(task.input, set * task.sets.inner), int(task.sets.inner));
        return merged(sums.second);
    }
    double sum = 0;
    for_flush_blocks(pieces_of(task.sets, chunk), [&](PieceRange block) {
        Pair<T> sums{};
        for (int64_t k = block.begin; k < block.end; ++k) {
            const Piece piece = piece_of(task.sets, set, k);
            gather_squares<Format>(sums, stored<Format>(task.input, piece.at), piece.n());
        }
        sum += merged(sums.second);
    });
    return sum;
}

template <class Kind, class T>
void rows_moments(const NormTask& task, int64_t begin, int64_t end) {
    if constexpr (Kind::centered) {
        planes_moments<T>(task, begin, end);
    } else {
        const int64_t chunks = task.sets.chunks;
        with_format<T>(task.input.type, [&](auto format) {
            for (int64_t unit = begin; unit < end; ++unit)
                task.partials[2 * unit] = squares_of<decltype(format), T>(task, unit / chunks, unit % chunks);
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
    alignas(64) T x_buffer[kBlock], buffer[kBlock];
    const bool direct = task.out.type == kNative<T> && !task.streams;
    const int64_t first = set.first + at;
    const T* const x = load(task.input, first, n, x_buffer);
    T* const out = direct ? static_cast<T*>(task.out.data) + first : buffer;
    z_of<Kind>(task, x, set.parameter + at, n, numbers, task.rounds_first, out);
    if (!passes(task)) activation_loops<T>[task.activation](out, out, n, T(task.negative_slope));
    store(task.out, first, n, out, task.streams);
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
    const int64_t length = task.sets.inner, chunks = task.sets.chunks, together = sets_together(task.sets);
    for (int64_t first = begin; first < end; first += together) {
        const int64_t last = end - first < together ? end : first + together;
        add_summands<T>(task, first * length, last * length);
        rows_moments<Kind, T>(task, first * chunks, last * chunks);
        rows_finalize<Kind, T>(task, first, last);
        for (int64_t index = first; index < last; ++index) {
            const RowSet set = row_set(task, index);
            const OneChannel<T> numbers = numbers_of_set<T>(task, index);
            for_set_blocks(task, [&](int64_t at, int n) { apply_to_set<Kind>(task, set, at, n, numbers); });
        }
    }
    finish_streams();
}

// The gradient of z for elements [at, at + n) of a set.
template <class Kind, class T>
const T* set_activation_backward(const NormTask& task, const RowSet& set, int64_t at, int n, const T* x, T* buffer) {
    const T* const grad = load(task.grad, set.first + at, n, buffer);
    if (passes(task)) return grad;
    alignas(64) T z[kBlock];
    z_of<Kind>(task, x, set.parameter + at, n, numbers_of_set<T>(task, set.index), false, z);
    passed_gradient_loops<T>[task.activation](z, grad, buffer, n, T(task.negative_slope));
    return buffer;
}

// Adds elements [at, at + n) of a set to the sums of its gradients times their weights, and of their products with x.
template <class Kind, class T>
void gather_of_set(const NormTask& task, const RowSet& set, int64_t at, int n, T center, Pair<T>& sums) {
    const int64_t first = set.first + at;
    const T* const weight = parameters_at<T>(task.weight, set.parameter + at);
    const auto gather = [&](auto format, const auto* grad, const auto* x) {
        using Format = decltype(format);
        (weight != nullptr ? gather_weighted<Kind::centered, true, Format, T>
                           : gather_weighted<Kind::centered, false, Format, T>)(sums, grad, x, weight, n, center);
    };
    if (passes(task))
        return with_format<T>(task.input.type, [&](auto format) {
            using Format = decltype(format);
            gather(format, stored<Format>(task.grad, first), stored<Format>(task.input, first));
        });
    alignas(64) T x_buffer[kBlock], grad_buffer[kBlock];
    const T* const x = load(task.input, first, n, x_buffer);
    const T* const dz = set_activation_backward<Kind>(task, set, at, n, x, grad_buffer);
    if (task.kept.data != nullptr) store(task.kept, first, n, dz);
    gather(Native<T>(), dz, x);
}

template <class Kind, class T>
Projection<T> projection_of_set(const NormTask& task, const RowSet& set) {
    const NormLayout& l = task.sets;
    const double mean = mean_of(task, set.index);
    const T center = T(mean);
    double sum = 0, products = 0;
    if (is_one_piece(l)) {
        Pair<T> sums{};
        gather_of_set<Kind>(task, set, 0, int(l.inner), center, sums);
        sum = merged(sums.first);
        products = merged(sums.second);
    }
    for (int64_t chunk = is_one_piece(l); chunk < l.chunks; ++chunk) {
        double some = 0, some_products = 0;
        sums_of<T>(pieces_of(l, chunk), some, some_products, [&](int64_t k, Pair<T>& sums) {
            const Piece piece = piece_of(l, set.index, k);
            gather_of_set<Kind>(task, set, piece.at - set.first, piece.n(), center, sums);
        });
        sum += some;
        products += some_products;
    }
    products -= (mean - double(center)) * sum;
    return projection<T>(mean, inverse_std_of(task, set.index), sum, products, task.count);
}

// Where a chunk of rows sums the gradients of weight and bias; null where they are not wanted.
template <class T>
struct ParameterSums {
    T *weight, *bias;
};

template <class Kind, class T>
void gradient_of_block(const NormTask& task, const RowSet& set, int64_t at, int n, const OneChannel<T>& numbers,
                       const ParameterSums<T>& sums) {
    alignas(64) T x_buffer[kBlock], grad_buffer[kBlock], buffer[kBlock];
    const bool direct = task.grad_input.data != nullptr && task.grad_input.type == kNative<T> && !task.streams;
    const int64_t first = set.first + at, parameter = set.parameter + at;
    const T* const x = load(task.input, first, n, x_buffer);
    const T* const dz = task.kept.data != nullptr ? load(task.kept, first, n, grad_buffer)
                                                  : set_activation_backward<Kind>(task, set, at, n, x, grad_buffer);
    const T* const weight = parameters_at<T>(task.weight, parameter);
    T* const out = direct ? static_cast<T*>(task.grad_input.data) + first : buffer;
    if (sums.weight != nullptr)
        (weight != nullptr ? row_gradient_loop<Kind, true, true, T>
                           : row_gradient_loop<Kind, false, true, T>)(dz, x, weight, out, sums.weight + parameter,
                                                                      sums.bias + parameter, n, numbers);
    else
        (weight != nullptr
             ? row_gradient_loop<Kind, true, false, T>
             : row_gradient_loop<Kind, false, false, T>)(dz, x, weight, out, nullptr, nullptr, n, numbers);
    if (task.grad_input.data == nullptr) return;
    add_grad_sum(task, first, n, out);
    store(task.grad_input, first, n, out, task.streams);
}

template <class T>
FASTOPT_NOINLINE void empty_into(double* __restrict totals, T* __restrict sums, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        totals[i] += double(sums[i]);
        sums[i] = 0;
    }
}

// Sets of one row.
template <class Kind, class T>
void backward_of_sets(const NormTask& task, int64_t first, int count, const ParameterSums<T>& sums) {
    OneChannel<T> numbers[kMostTogether];
    for (int k = 0; k < count; ++k) {
        Projection<T> less{};
        if (task.grad_input.data != nullptr) less = projection_of_set<Kind, T>(task, row_set(task, first + k));
        numbers[k] = numbers_of_set(task, first + k, less);
    }
    for (int k = 0; k < count; ++k) {
        const RowSet set = row_set(task, first + k);
        for_set_blocks(task,
                       [&](int64_t at, int n) { gradient_of_block<Kind, T>(task, set, at, n, numbers[k], sums); });
    }
}

// Units: chunks of rows. Their sums in the compute type are emptied into float64 after every flush block of rows.
template <class Kind, class T>
void rows_backward(const NormTask& task, int64_t begin, int64_t end) {
    const int64_t length = task.row_sets * task.sets.inner, all_rows = task.set_count / task.row_sets;
    const int64_t together = sets_together(task.sets);
    for (int64_t chunk = begin; chunk < end; ++chunk) {
        ParameterSums<T> sums{};
        double* totals = nullptr;
        if (task.accumulators != nullptr) {
            sums.weight = static_cast<T*>(task.accumulators) + 2 * chunk * length;
            sums.bias = sums.weight + length;
            totals = task.partials + 2 * chunk * length;
            for (int64_t i = 0; i < 2 * length; ++i) sums.weight[i] = 0, totals[i] = 0;
        }
        const int64_t first = chunk * task.chunk_rows, left = all_rows - first;
        const int64_t rows = left < task.chunk_rows ? left : task.chunk_rows;
        for (int64_t r = 0; r < rows; ++r) {
            for (int64_t s = 0; s < task.row_sets; s += together) {
                const int64_t left_sets = task.row_sets - s;
                backward_of_sets<Kind, T>(task, (first + r) * task.row_sets + s,
                                          int(left_sets < together ? left_sets : together), sums);
            }
            const bool flushes = (r + 1) % kFlushRows == 0 || r + 1 == rows;
            if (flushes && totals != nullptr) empty_into(totals, sums.weight, 2 * length);
        }
    }
    finish_streams();
}

// The gradients of weight and bias, [begin, end): each is the sum of `row_repeat` columns of all chunks.
template <class T>
void rows_join_parameters(const NormTask& task, int64_t begin, int64_t end) {
    const int64_t length = task.parameters * task.row_repeat, rows = task.set_count / task.row_sets;
    const int64_t chunks = (rows + task.chunk_rows - 1) / task.chunk_rows;
    const Array* const results[] = {&task.grad_weight, &task.grad_bias};
    for (int k = 0; k < 2; ++k) {
        if (results[k]->data == nullptr) continue;
        double of_parameter = 0;
        for (int64_t at = begin * task.row_repeat; at < end * task.row_repeat; at += kBlock) {
            const int64_t left = end * task.row_repeat - at;
            const int n = int(left < kBlock ? left : kBlock);
            double totals[kBlock] = {};
            for (int64_t chunk = 0; chunk < chunks; ++chunk)
                add_onto(totals, task.partials + (2 * chunk + k) * length + at, int64_t(n));
            for (int i = 0; i < n; ++i) {
                of_parameter += totals[i];
                if ((at + i + 1) % task.row_repeat != 0) continue;
                set_element(*results[k], (at + i) / task.row_repeat, of_parameter);
                of_parameter = 0;
            }
        }
    }
}

template <class Kind, class T>
constexpr RowKernels rows = {rows_moments<Kind, T>, rows_finalize<Kind, T>, rows_apply<Kind, T>,
                             rows_forward<Kind, T>, rows_backward<Kind, T>, rows_join_parameters<T>};

}  // namespace
}  // namespace fastopt
