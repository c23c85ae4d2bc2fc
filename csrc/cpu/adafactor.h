// Adafactor's passes: sums of squares of the gradient (by row and column where it is factored) and of the
// parameter; the update's sum of squares; the update. No update is stored between passes: it costs
// less to compute it twice.
#pragma once

#include "../rules/adafactor.h"
#include "factored.h"
#include "reductions.h"

namespace fastopt {
namespace {

template <class T>
auto adafactor_scalars(const Task& task) {
    return round_scalars<Adafactor::Scalars, T>(task.constants->rule);
}

FASTOPT_HD void prefetch_ahead(const Array& array, const MatrixTile& tile, int row) {
    if (row + kRowsAhead < tile.rows) prefetch(array, tile.at(row + kRowsAhead), tile.columns);
}

// Vectors and scalars: the second moment is a state like any other.
struct AdafactorVector : Adafactor {
    static constexpr int states = 1;  // variance
    static constexpr bool factored = false;

    template <class T>
    FASTOPT_HD static T moved(T variance, T grad, const Scalars<T>& c) {
        return lerp(variance, grad * grad, c.one_minus_beta2);
    }

    template <class T>
    static void measure(const Task& task, int64_t begin, int64_t end) {
        const Gradients<T> gradients(task);
        const auto c = adafactor_scalars<T>(task);
        const VectorScratch scratch(task);
        alignas(64) T param_buffer[kBlock], grad_buffer[kBlock], variance_buffer[kBlock], update_buffer[kBlock];
        alignas(64) double param_lanes[kLanes], update_lanes[kLanes];
        for (int64_t chunk = begin; chunk < end; chunk += kSumChunk) {
            const int64_t chunk_end = end - chunk < kSumChunk ? end : chunk + kSumChunk;
            for (double& lane : param_lanes) lane = 0;
            for (double& lane : update_lanes) lane = 0;
            for (int64_t at = chunk; at < chunk_end; at += kBlock) {
                const int n = int(chunk_end - at < kBlock ? chunk_end - at : kBlock);
                const T* param = load(task.param, at, n, param_buffer);
                const T* grad = gradients.prepare(param, at, n, grad_buffer, false);
                const T* variance = load(task.states[0], at, n, variance_buffer);
                for (int i = 0; i < n; ++i)
                    update_buffer[i] = update(grad[i], inverse_root(moved(variance[i], grad[i], c)), c);
                gather(param_lanes, param, n, kSquare, kPlus);
                gather(update_lanes, update_buffer, n, kSquare, kPlus);
            }
            scratch.param_squares[chunk / kSumChunk] = merge(param_lanes, kPlus);
            scratch.update_squares[chunk / kSumChunk] = merge(update_lanes, kPlus);
        }
    }

    static void combine(const Task& task) {
        const VectorScratch scratch(task);
        *scratch.step_size =
            step_size(sum(scratch.param_squares, scratch.chunks), sum(scratch.update_squares, scratch.chunks), task.n,
                      adafactor_scalars<double>(task));
    }

    template <class T>
    static void apply(const Task& task, int64_t begin, int64_t end) {
        const Gradients<T> gradients(task);
        const auto c = adafactor_scalars<T>(task);
        const T step = T(*VectorScratch(task).step_size);
        alignas(64) T param_buffer[kBlock], grad_buffer[kBlock], variance_buffer[kBlock];
        for (int64_t at = begin; at < end; at += kBlock) {
            const int n = int(end - at < kBlock ? end - at : kBlock);
            T* const param = load(task.param, at, n, param_buffer);
            const T* const grad = gradients.prepare(param, at, n, grad_buffer, true);
            T* const variance = load(task.states[0], at, n, variance_buffer);
            FASTOPT_VECTORIZE
            for (int i = 0; i < n; ++i) {
                variance[i] = moved(variance[i], grad[i], c);
                param[i] = Prologue::decayed(param[i], gradients.common) -
                           step * update(grad[i], inverse_root(variance[i]), c);
            }
            store(task.param, at, n, param);
            store(task.states[0], at, n, variance);
        }
    }

    static constexpr int pass_count = 2;
    template <class T>
    static constexpr Pass passes[pass_count] = {{measure<T>, combine}, {apply<T>, nullptr}};
};

// Matrices, and stacks of them: the second moment is kept by row and by column.
struct AdafactorMatrix : Adafactor {
    static constexpr int states = 2;  // row_var, col_var
    static constexpr bool factored = true;

    template <class T>
    static void measure(const Task& task, int64_t begin, int64_t end) {
        const Gradients<T> gradients(task);
        const FactoredScratch scratch(task);
        alignas(64) T param_buffer[kTileColumns], grad_buffer[kTileColumns];
        alignas(64) double row_lanes[kLanes], param_lanes[kLanes], columns[kTileColumns];
        for (int64_t unit = begin; unit < end; ++unit) {
            const MatrixTile tile(task.shape, unit);
            for (double& lane : param_lanes) lane = 0;
            for (double& column : columns) column = 0;
            for (int row = 0; row < tile.rows; ++row) {
                const int64_t at = tile.at(row);
                prefetch_ahead(task.param, tile, row);
                prefetch_ahead(task.grad, tile, row);
                const T* param = load(task.param, at, tile.columns, param_buffer);
                const T* const grad = gradients.prepare(param, at, tile.columns, grad_buffer, false);
                for (double& lane : row_lanes) lane = 0;
                gather_squares(row_lanes, columns, grad, tile.columns);
                gather(param_lanes, param, tile.columns, kSquare, kPlus);
                scratch.row_sums(tile)[row] = merge(row_lanes, kPlus);
            }
            double* const column_sums = scratch.column_sums(tile);
            for (int i = 0; i < tile.columns; ++i) column_sums[i] = columns[i];
            scratch.param_squares[unit] = merge(param_lanes, kPlus);
        }
    }

    // The new means, and from them the factors of 1 / sqrt(second moment).
    template <class T>
    static void combine_means(const Task& task) {
        const auto c = adafactor_scalars<T>(task);
        const FactoredScratch scratch(task);
        const auto [count, rows, columns] = task.shape;
        for (int64_t m = 0; m < count; ++m) {
            T* const row_factors = scratch.row_factors<T>(m);
            T* const column_factors = scratch.column_factors<T>(m);
            scratch.add_up(m);
            update_means(task.states[0], m * rows, rows, scratch.total_rows(m), double(columns), c, row_factors);
            update_means(task.states[1], m * columns, columns, scratch.total_columns(m), double(rows), c,
                         column_factors);
            const T mean = maximum(T(sum(row_factors, rows) / double(rows)), c.eps1);
            for (int64_t i = 0; i < rows; ++i) row_factors[i] = inverse_root(row_factors[i] / mean);
            for (int64_t i = 0; i < columns; ++i) column_factors[i] = inverse_root(column_factors[i]);
        }
    }

    // Moves the state [at, at + n) towards the means of the sums, and leaves it in `means` too.
    template <class T>
    static void update_means(const Array& state, int64_t at, int64_t n, const double* sums, double divisor,
                             const Scalars<T>& c, T* means) {
        alignas(64) T buffer[kBlock];
        for (int64_t i = 0; i < n; i += kBlock) {
            const int part = int(n - i < kBlock ? n - i : kBlock);
            T* const values = load(state, at + i, part, buffer);
            for (int k = 0; k < part; ++k)
                means[i + k] = values[k] = lerp(values[k], T(sums[i + k] / divisor), c.one_minus_beta2);
            store(state, at + i, part, values);
        }
    }

    template <class T>
    static void measure_update(const Task& task, int64_t begin, int64_t end) {
        const Gradients<T> gradients(task);
        const bool penalizes = Prologue::penalizes(gradients.common);
        const auto c = adafactor_scalars<T>(task);
        const FactoredScratch scratch(task);
        alignas(64) T param_buffer[kTileColumns], grad_buffer[kTileColumns];
        alignas(64) double lanes[kLanes];
        for (int64_t unit = begin; unit < end; ++unit) {
            const MatrixTile tile(task.shape, unit);
            const T* const row_factors = scratch.row_factors<T>(tile.matrix) + tile.first_row;
            const T* const column_factors = scratch.column_factors<T>(tile.matrix) + tile.first_column;
            for (double& lane : lanes) lane = 0;
            for (int row = 0; row < tile.rows; ++row) {
                const int64_t at = tile.at(row);
                prefetch_ahead(task.grad, tile, row);
                const T* param = penalizes ? load(task.param, at, tile.columns, param_buffer) : nullptr;
                const T* const grad = gradients.prepare(param, at, tile.columns, grad_buffer, false);
                const T row_factor = row_factors[row];
                T updates[kTileColumns];
                for (int i = 0; i < tile.columns; ++i) updates[i] = update(grad[i], row_factor * column_factors[i], c);
                gather(lanes, updates, tile.columns, kSquare, kPlus);
            }
            scratch.update_squares[unit] = merge(lanes, kPlus);
        }
    }

    static void combine_squares(const Task& task) {
        const FactoredScratch scratch(task);
        *scratch.step_size =
            step_size(sum(scratch.param_squares, scratch.tiles), sum(scratch.update_squares, scratch.tiles), task.n,
                      adafactor_scalars<double>(task));
    }

    template <class T>
    static void apply(const Task& task, int64_t begin, int64_t end) {
        const Gradients<T> gradients(task);
        const auto c = adafactor_scalars<T>(task);
        const FactoredScratch scratch(task);
        const T step = T(*scratch.step_size);
        alignas(64) T param_buffer[kTileColumns], grad_buffer[kTileColumns];
        for (int64_t unit = begin; unit < end; ++unit) {
            const MatrixTile tile(task.shape, unit);
            const T* const row_factors = scratch.row_factors<T>(tile.matrix) + tile.first_row;
            const T* const column_factors = scratch.column_factors<T>(tile.matrix) + tile.first_column;
            for (int row = 0; row < tile.rows; ++row) {
                const int64_t at = tile.at(row);
                prefetch_ahead(task.param, tile, row);
                prefetch_ahead(task.grad, tile, row);
                T* const param = load(task.param, at, tile.columns, param_buffer);
                const T* const grad = gradients.prepare(param, at, tile.columns, grad_buffer, true);
                const T row_factor = row_factors[row];
                FASTOPT_VECTORIZE
                for (int i = 0; i < tile.columns; ++i)
                    param[i] = Prologue::decayed(param[i], gradients.common) -
                               step * update(grad[i], row_factor * column_factors[i], c);
                store(task.param, at, tile.columns, param);
            }
        }
    }

    static constexpr int pass_count = 3;
    template <class T>
    static constexpr Pass passes[pass_count] = {
        {measure<T>, combine_means<T>}, {measure_update<T>, combine_squares}, {apply<T>, nullptr}};
};

}  // namespace
}  // namespace fastopt
