// Adafactor's passes over matrices: the gradient's squares by row and by column, and the parameter's; the update's
// squares; the update. The update is not stored between passes, because computing it twice costs less.
#pragma once

#include "cpu/optim/scaled.h"
#include "rules/adafactor.h"

namespace fastopt {
namespace {

template <class T>
auto adafactor_scalars(const Task& task) {
    return round_scalars<Adafactor::Scalars, T>(task.constants->rule);
}

constexpr int kRowsAhead = 3;  // rows to prefetch ahead: a tile's row is too short for hardware prefetchers

// Prefetches a later row, 32 elements per call. The calls are spread over the work on another row, because many
// requests at once would delay it.
struct RowAhead {
    const Array array;
    const int64_t at;
    const bool is_in_tile;

    RowAhead(const Array& of, const MatrixTile& tile, int row)
        : array(of), at(tile.at(row + kRowsAhead)), is_in_tile(row + kRowsAhead < tile.rows) {}

    FASTOPT_HD void operator()(int i) const {
        if (is_in_tile) prefetch(array, at + i, kLanes);
    }
};

FASTOPT_HD int band_end(const MatrixTile& tile, int begin) {
    return tile.rows - begin < kBandRows ? tile.rows : begin + kBandRows;
}

// Matrices, and stacks of matrices: the second moment is kept by row and by column.
struct AdafactorMatrix : Adafactor {
    static constexpr int states = 2;  // row_var, col_var
    static constexpr bool factored = true;

    template <class T>
    static void measure(const Task& task, int64_t begin, int64_t end) {
        const Gradients<T> gradients(task);
        Stored<T> stored(task);
        const FactoredScratch scratch(task.scratch, task.shape);
        alignas(64) T param_buffer[kTileColumns], grad_buffer[kTileColumns];
        alignas(64) double row_lanes[kLanes], lanes[kLanes], param_lanes[kLanes], columns[kTileColumns];
        for (int64_t unit = begin; unit < end; ++unit) {
            const MatrixTile tile(task.shape, unit);
            double* const column_sums = scratch.column_sums(tile);
            clear(param_lanes, kLanes);
            clear(column_sums, tile.columns);
            for (int band = 0; band < tile.rows; band += kBandRows) {
                clear(lanes, kLanes);
                for (int row = band; row < band_end(tile, band); ++row) {
                    const int64_t at = tile.at(row);
                    const RowAhead param_ahead(task.param, tile, row), grad_ahead(task.grad, tile, row);
                    const T* param = stored.load_param(at, tile.columns, param_buffer);
                    const T* const grad = gradients.prepare(param, at, tile.columns, grad_buffer, false);
                    clear(row_lanes, kLanes);
                    if (row == band)
                        gather_squares<true>(row_lanes, columns, grad, tile.columns, grad_ahead);
                    else
                        gather_squares<false>(row_lanes, columns, grad, tile.columns, grad_ahead);
                    gather_squares(lanes, param, tile.columns, param_ahead);
                    scratch.row_sums(tile)[row] = merge(row_lanes, kPlus);
                }
                add_onto(param_lanes, lanes, kLanes);
                add_onto(column_sums, columns, tile.columns);
            }
            scratch.first_sums[unit] = merge(param_lanes, kPlus);
        }
    }

    // Computes the new means, and from them the factors of 1 / sqrt(second moment).
    template <class T>
    static void combine_means(const Task& task) {
        const auto c = adafactor_scalars<T>(task);
        const FactoredScratch scratch(task.scratch, task.shape);
        Stored<T> stored(task);
        const auto [count, rows, columns] = task.shape;
        for (int64_t m = 0; m < count; ++m) {
            T* const row_factors = scratch.row_factors<T>(m);
            T* const column_factors = scratch.column_factors<T>(m);
            add_up(scratch.row_sums(m), scratch.across, rows);
            add_up(scratch.column_sums(m), scratch.down, columns);
            move_means(stored, 0, m * rows, rows, scratch.row_sums(m), columns, c, row_factors);
            move_means(stored, 1, m * columns, columns, scratch.column_sums(m), rows, c, column_factors);
            const T mean = mean_of_rows(sum(row_factors, rows), rows, c);
            for (int64_t i = 0; i < rows; ++i) row_factors[i] = inverse_root(row_factors[i] / mean);
            for (int64_t i = 0; i < columns; ++i) column_factors[i] = inverse_root(column_factors[i]);
        }
    }

    // Adds up sums[parts][n] into sums[n]: part k goes to lane k % 32, and the lanes are merged halves onto halves.
    static void add_up(double* sums, int64_t parts, int64_t n) {
        for (int64_t part = kLanes; part < parts; ++part) add_onto(sums + part % kLanes * n, sums + part * n, n);
        if (parts == 1) return;
        for (int64_t half = kLanes / 2; half > 0; half /= 2)
            for (int64_t lane = 0; lane < half && lane + half < parts; ++lane)
                add_onto(sums + lane * n, sums + (lane + half) * n, n);
    }

    // Moves elements [at, at + n) of state k towards the means of `squares`, sums of `terms` each; also writes them to
    // `means`.
    template <class T>
    static void move_means(Stored<T>& stored, int k, int64_t at, int64_t n, const double* squares, int64_t terms,
                           const Scalars<T>& c, T* means) {
        alignas(64) T buffer[kMostStored];
        for (int64_t i = 0; i < n; i += kMostStored) {
            const int part = int(n - i < kMostStored ? n - i : kMostStored);
            T* const values = stored.load_state(k, at + i, part, buffer);
            for (int j = 0; j < part; ++j) means[i + j] = values[j] = moved_mean(values[j], squares[i + j], terms, c);
            stored.store_state(k, at + i, part, values);
        }
    }

    template <class T>
    static void measure_update(const Task& task, int64_t begin, int64_t end) {
        const Gradients<T> gradients(task);
        Stored<T> stored(task);
        const bool penalizes = Prologue::penalizes(gradients.common);
        const auto c = adafactor_scalars<T>(task);
        const FactoredScratch scratch(task.scratch, task.shape);
        alignas(64) T param_buffer[kTileColumns], grad_buffer[kTileColumns];
        alignas(64) double lanes[kLanes], update_lanes[kLanes];
        for (int64_t unit = begin; unit < end; ++unit) {
            const MatrixTile tile(task.shape, unit);
            const T* const row_factors = scratch.row_factors<T>(tile.matrix) + tile.first_row;
            const T* const column_factors = scratch.column_factors<T>(tile.matrix) + tile.first_column;
            clear(update_lanes, kLanes);
            for (int band = 0; band < tile.rows; band += kBandRows) {
                clear(lanes, kLanes);
                for (int row = band; row < band_end(tile, band); ++row) {
                    const int64_t at = tile.at(row);
                    const T* param = penalizes ? stored.load_param(at, tile.columns, param_buffer) : nullptr;
                    const T* const grad = gradients.prepare(param, at, tile.columns, grad_buffer, false);
                    const T row_factor = row_factors[row];
                    T updates[kTileColumns];
                    for (int i = 0; i < tile.columns; ++i)
                        updates[i] = update(grad[i], row_factor * column_factors[i], c);
                    gather_squares(lanes, updates, tile.columns, RowAhead(task.grad, tile, row));
                }
                add_onto(update_lanes, lanes, kLanes);
            }
            scratch.second_sums[unit] = merge(update_lanes, kPlus);
        }
    }

    static void combine(const Task& task) { combine_scale<Adafactor>(task, FactoredScratch(task.scratch, task.shape)); }

    template <class T>
    static void apply(const Task& task, int64_t begin, int64_t end) {
        const Gradients<T> gradients(task);
        Stored<T> stored(task);
        Statistics<T> statistics(task);
        const auto c = adafactor_scalars<T>(task);
        const FactoredScratch scratch(task.scratch, task.shape);
        const T scale = T(*scratch.scale);
        alignas(64) T param_buffer[kTileColumns], grad_buffer[kTileColumns];
        for (int64_t unit = begin; unit < end; ++unit) {
            const MatrixTile tile(task.shape, unit);
            const T* const row_factors = scratch.row_factors<T>(tile.matrix) + tile.first_row;
            const T* const column_factors = scratch.column_factors<T>(tile.matrix) + tile.first_column;
            for (int row = 0; row < tile.rows; ++row) {
                const int64_t at = tile.at(row);
                const RowAhead param_ahead(task.param, tile, row), grad_ahead(task.grad, tile, row);
                T* const param = stored.load_param(at, tile.columns, param_buffer);
                const T* const grad = gradients.prepare(param, at, tile.columns, grad_buffer, true);
                if (statistics.is_on()) statistics.before(param, tile.columns);
                const T row_factor = row_factors[row];
                for (int first = 0; first < tile.columns; first += kLanes) {
                    const int last = first + kLanes < tile.columns ? first + kLanes : tile.columns;
                    param_ahead(first);
                    grad_ahead(first);
                    FASTOPT_VECTORIZE
                    for (int i = first; i < last; ++i)
                        param[i] = Prologue::decayed(param[i], gradients.common) -
                                   scale * update(grad[i], row_factor * column_factors[i], c);
                }
                stored.store_param(at, tile.columns, param);
                if (!statistics.is_on()) continue;
                statistics.after(stored, at, tile.columns, param, param_buffer, grad_buffer);
                if ((row + 1) % kBandRows == 0) statistics.end_band();
            }
            if (statistics.is_on()) statistics.finish(unit);
        }
    }

    static constexpr int pass_count = 3;
    static constexpr JoinGroup join_group = nullptr;
    template <class T>
    static constexpr Pass passes[pass_count] = {
        {measure<T>, combine_means<T>}, {measure_update<T>, combine}, {apply<T>, nullptr}};
};

}  // namespace
}  // namespace fastopt
