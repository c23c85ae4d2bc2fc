// The backward pass where every element of a row has a weight of its own.
#pragma once

#include "cpu/norm/row_sets.h"

namespace fastopt {
namespace {

// The gradient of z for elements [at, at + n) of a set.
template <class Kind, class T>
const T* set_activation_backward(const NormTask& task, const RowSet& set, int64_t at, int n, const T* x, T* buffer) {
    const T* const grad = load(task.grad, set.first + at, n, buffer);
    if (passes(task)) return grad;
    alignas(64) T z[kBlock];
    z_of<Kind, Native<T>>(task, x, set.parameter + at, n, numbers_of_set<T>(task, set.index), false, z);
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
void sums_of_set(const NormTask& task, const RowSet& set, double& sum, double& products) {
    const NormLayout& l = task.sets;
    const T center = T(mean_of(task, set.index));
    sum = products = 0;
    for (int64_t chunk = 0; chunk < l.chunks; ++chunk) {
        double some = 0, some_products = 0;
        sums_of<T>(pieces_of(l, chunk), some, some_products, [&](int64_t k, Pair<T>& sums) {
            const Piece piece = piece_at(l, set.index, k);
            gather_of_set<Kind>(task, set, piece.at - set.first, piece.n(), center, sums);
        });
        sum += some;
        products += some_products;
    }
}

// The same for sets of one piece each: none waits for the merged sums of the one before.
template <class Kind, class T>
void sums_of_pieces(const NormTask& task, int64_t first, int64_t count, double* sums, double* products) {
    Pair<T> lanes[kMostTogether];
    for (int64_t k = 0; k < count; ++k)
        gather_of_set<Kind>(task, row_set(task, first + k), 0, int(task.sets.inner), T(mean_of(task, first + k)),
                            lanes[k]);
    for (int64_t k = 0; k < count; ++k) {
        sums[k] = Kind::centered ? merged(lanes[k].first) : 0;
        products[k] = merged(lanes[k].second);
    }
}

// The numbers of sets [first, first + count), at most kMostTogether.
template <class Kind, class T>
void numbers_of_sets(const NormTask& task, int64_t first, int64_t count, OneChannel<T>* numbers) {
    double sums[kMostTogether], products[kMostTogether];
    const bool projects = task.grad_input.data != nullptr;
    if (projects && is_one_piece(task.sets)) {
        sums_of_pieces<Kind, T>(task, first, count, sums, products);
    } else if (projects) {
        for (int64_t k = 0; k < count; ++k) sums_of_set<Kind, T>(task, row_set(task, first + k), sums[k], products[k]);
    }
    for (int64_t k = 0; k < count; ++k) {
        Projection<T> less{};
        if (projects) {
            const double mean = mean_of(task, first + k);
            less = projection<T>(mean, inverse_std_of(task, first + k), sums[k],
                                 products[k] - (mean - double(T(mean))) * sums[k], task.count);
        }
        numbers[k] = numbers_of_set(task, first + k, less);
    }
}

// Where a chunk of rows sums the gradients of weight and bias; null where they are not wanted.
template <class T>
struct ParameterSums {
    T *weight, *bias;
};

// Elements [at, at + n) of `kRows` sets from `first` on, which share their weights. Native numbers are those of the
// compute type, in which all can be had; bfloat16 is converted in the loop that computes.
template <class Kind, class Format, int kRows, class T>
void gradient_of_block(const NormTask& task, int64_t first, int64_t at, int n, const OneChannel<T>* numbers,
                       const ParameterSums<T>& sums) {
    alignas(64) T x_buffer[kBlock], grad_buffer[kBlock], buffer[kBlock];
    const bool direct = task.grad_input.data != nullptr && task.grad_input.type == kNative<T> && !task.streams;
    RowLines<Format, T, kRows> lines;
    for (int r = 0; r < kRows; ++r) {
        const RowSet set = row_set(task, first + r);
        const int64_t from = set.first + at;
        if constexpr (sizeof(typename Format::Storage) == sizeof(T)) {
            T* const own = grad_buffer + r * n;
            lines.x[r] = load(task.input, from, n, x_buffer + r * n);
            lines.grad[r] = task.kept.data != nullptr
                                ? load(task.kept, from, n, own)
                                : set_activation_backward<Kind>(task, set, at, n, lines.x[r], own);
        } else {
            lines.x[r] = stored<Format>(task.input, from);
            lines.grad[r] = stored<Format>(task.grad, from);
        }
        lines.out[r] = direct ? static_cast<T*>(task.grad_input.data) + from : buffer + r * n;
    }
    const int64_t parameter = row_set(task, first).parameter + at;
    const T* const weight = parameters_at<T>(task.weight, parameter);
    if (sums.weight != nullptr)
        (weight != nullptr ? row_gradient_loop<Kind, true, true, Format, kRows, T>
                           : row_gradient_loop<Kind, false, true, Format, kRows, T>)(lines, weight,
                                                                                     sums.weight + parameter,
                                                                                     sums.bias + parameter, n, numbers);
    else
        (weight != nullptr
             ? row_gradient_loop<Kind, true, false, Format, kRows, T>
             : row_gradient_loop<Kind, false, false, Format, kRows, T>)(lines, weight, nullptr, nullptr, n, numbers);
    if (task.grad_input.data == nullptr) return;
    for (int r = 0; r < kRows; ++r) {
        const int64_t from = row_set(task, first + r).first + at;
        add_grad_sum(task, from, n, lines.out[r]);
        store(task.grad_input, from, n, lines.out[r], task.streams);
    }
}

// `begins`: the totals have no values yet.
template <class T>
FASTOPT_NOINLINE void empty_into(double* __restrict totals, T* __restrict sums, int64_t n, bool begins) {
    if (begins)
        for (int64_t i = 0; i < n; ++i) totals[i] = double(sums[i]);
    else
        for (int64_t i = 0; i < n; ++i) totals[i] += double(sums[i]);
    for (int64_t i = 0; i < n; ++i) sums[i] = 0;
}

template <class Kind, int kRows, class T>
void gradient_of_sets(const NormTask& task, int64_t first, const OneChannel<T>* numbers, const ParameterSums<T>& sums) {
    const auto run = [&](auto format) {
        for_batches(0, task.sets.inner, kBlock / kRows, [&](int64_t at, int64_t end) {
            gradient_of_block<Kind, decltype(format), kRows, T>(task, first, at, int(end - at), numbers, sums);
        });
    };
    if constexpr (sizeof(T) == sizeof(float))
        if (task.input.type == DType::bf16 && passes(task)) return run(BFloat16());
    run(Native<T>());
}

// Rows that share a block.
constexpr int kRowsAtOnce = 2;

template <class Kind, class T>
void backward_of_sets(const NormTask& task, int64_t first, int64_t last, const ParameterSums<T>& sums) {
    OneChannel<T> numbers[kMostTogether];
    numbers_of_sets<Kind>(task, first, last - first, numbers);
    prefetch_sets(task, last, last - first, task.input, task.grad);
    int64_t set = first;
    if (task.row_sets == 1)
        for (; set + kRowsAtOnce <= last; set += kRowsAtOnce)
            gradient_of_sets<Kind, kRowsAtOnce, T>(task, set, numbers + (set - first), sums);
    for (; set < last; ++set) gradient_of_sets<Kind, 1, T>(task, set, numbers + (set - first), sums);
}

// Sets that go through each step together. Long ones leave L1 between the steps, but not L2.
FASTOPT_HD int64_t sets_together_backward(const NormTask& task) {
    const int64_t few = sets_together(task.sets);
    return few < kRowsAtOnce && kRowsAtOnce * task.sets.inner <= 16 * kBlock ? kRowsAtOnce : few;
}

// Units: chunks of rows. Their sums in the compute type are emptied into float64 after every flush block of rows. All
// chunks of a call use the room of the first one, which stays in the cache.
template <class Kind, class T>
void rows_backward(const NormTask& task, int64_t begin, int64_t end) {
    const int64_t length = task.row_sets * task.sets.inner, all_rows = task.set_count / task.row_sets;
    const int64_t together = sets_together_backward(task);
    ParameterSums<T> sums{};
    if (task.accumulators != nullptr) {
        sums.weight = static_cast<T*>(task.accumulators) + 2 * begin * length;
        sums.bias = sums.weight + length;
        for (int64_t i = 0; i < 2 * length; ++i) sums.weight[i] = 0;
    }
    for (int64_t chunk = begin; chunk < end; ++chunk) {
        const int64_t first = chunk * task.chunk_rows, left = all_rows - first;
        const int64_t rows_end = left < task.chunk_rows ? all_rows : first + task.chunk_rows;
        for_batches(first, rows_end, kFlushRows, [&](int64_t row, int64_t end_row) {
            for_batches(row * task.row_sets, end_row * task.row_sets, together,
                        [&](int64_t set, int64_t end_set) { backward_of_sets<Kind, T>(task, set, end_set, sums); });
            if (sums.weight == nullptr) return;
            empty_into(task.partials + 2 * chunk * length, sums.weight, 2 * length, row == first);
        });
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
                add_onto(totals, task.partials + (2 * chunk + k) * length + at, n);
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
