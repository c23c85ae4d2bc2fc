// Tiles of matrices, and the memory for sums over their rows and columns. Plain arithmetic in an
// anonymous namespace: the engine (run.cpp) and every ISA file have copies of their own.
#pragma once

#include "../common.h"

namespace fastopt {
namespace {

// A tile's row is contiguous: long enough for the prefetcher. Its sums take 3 % of a float32 matrix.
constexpr int kTileRows = 64;
constexpr int kTileColumns = 256;
constexpr int kRowsAhead = 4;  // to prefetch: a row is too short for the hardware to see where it goes

inline int64_t tiles_along(int64_t n, int64_t tile) { return (n + tile - 1) / tile; }

inline int64_t tiles_per_matrix(const Matrices& shape) {
    return tiles_along(shape.rows, kTileRows) * tiles_along(shape.columns, kTileColumns);
}

struct MatrixTile {
    int64_t matrix, first_row, first_column;
    int rows, columns;

    MatrixTile(const Matrices& of, int64_t unit) : shape_(of) {
        const int64_t across = tiles_along(of.columns, kTileColumns), per_matrix = tiles_per_matrix(of);
        matrix = unit / per_matrix;
        first_row = unit % per_matrix / across * kTileRows;
        first_column = unit % across * kTileColumns;
        rows = int(of.rows - first_row < kTileRows ? of.rows - first_row : kTileRows);
        columns = int(of.columns - first_column < kTileColumns ? of.columns - first_column : kTileColumns);
    }

    // The offset of a row's first element.
    int64_t at(int row) const { return (matrix * shape_.rows + first_row + row) * shape_.columns + first_column; }

   private:
    const Matrices& shape_;
};

// The scratch memory of a task without matrices: a sum of the parameter's squares and one of the update's
// per chunk, and the result.
struct VectorScratch {
    int64_t chunks;
    double *param_squares, *update_squares, *step_size;

    explicit VectorScratch(const Task& task)
        : chunks(tiles_along(task.n, kSumChunk)),
          param_squares(task.scratch),
          update_squares(param_squares + chunks),
          step_size(update_squares + chunks) {}

    // In doubles.
    static int64_t size(int64_t n) { return 2 * tiles_along(n, kSumChunk) + 1; }
};

// That of a task with matrices. Per matrix: partial sums of every row (one per tile across) and column (one
// per tile down), added up into the first of them; and a factor for each row and column.
struct FactoredScratch {
    int64_t across, down, tiles;
    double *param_squares, *update_squares, *step_size;

    explicit FactoredScratch(const Task& task)
        : across(tiles_along(task.shape.columns, kTileColumns)),
          down(tiles_along(task.shape.rows, kTileRows)),
          tiles(task.shape.count * across * down),
          param_squares(task.scratch),
          update_squares(param_squares + tiles),
          step_size(update_squares + tiles),
          shape_(task.shape),
          rows_(step_size + 1),
          columns_(rows_ + task.shape.count * across * task.shape.rows),
          row_factors_(columns_ + task.shape.count * down * task.shape.columns),
          column_factors_(row_factors_ + task.shape.count * task.shape.rows) {}

    // In doubles.
    static int64_t size(const Matrices& shape) {
        const int64_t wide = tiles_along(shape.columns, kTileColumns), high = tiles_along(shape.rows, kTileRows);
        return 1 + shape.count * (2 * wide * high + (wide + 1) * shape.rows + (high + 1) * shape.columns);
    }

    double* row_sums(const MatrixTile& tile) const {
        return total_rows(tile.matrix) + tile.first_column / kTileColumns * shape_.rows + tile.first_row;
    }
    double* column_sums(const MatrixTile& tile) const {
        return total_columns(tile.matrix) + tile.first_row / kTileRows * shape_.columns + tile.first_column;
    }
    double* total_rows(int64_t matrix) const { return rows_ + matrix * across * shape_.rows; }
    double* total_columns(int64_t matrix) const { return columns_ + matrix * down * shape_.columns; }

    void add_up(int64_t matrix) const {
        add_onto_first(total_rows(matrix), across, shape_.rows);
        add_onto_first(total_columns(matrix), down, shape_.columns);
    }

    template <class T>
    T* row_factors(int64_t matrix) const {
        return reinterpret_cast<T*>(row_factors_) + matrix * shape_.rows;
    }
    template <class T>
    T* column_factors(int64_t matrix) const {
        return reinterpret_cast<T*>(column_factors_) + matrix * shape_.columns;
    }

   private:
    static void add_onto_first(double* sums, int64_t parts, int64_t n) {
        for (int64_t part = 1; part < parts; ++part)
            for (int64_t i = 0; i < n; ++i) sums[i] += sums[part * n + i];
    }

    Matrices shape_;
    double *rows_, *columns_, *row_factors_, *column_factors_;
};

}  // namespace
}  // namespace fastopt
