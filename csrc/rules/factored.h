// How the sums of a multi-pass rule are shared out, over chunks or over tiles of matrices, and where they are in a
// task's scratch memory. Plain arithmetic for the engine and the kernels of CPU and GPU.
#pragma once

#include "common.h"

namespace fastopt {
namespace {

// A tile's row is contiguous: long enough for a CPU's prefetchers, 8 elements for each thread of a warp. Sums of its
// columns go from band to band of kBandRows rows; sums of its squares go through 32 lanes per band, the work of a warp.
// The sums of all tiles take about 4 % of the memory of a float32 matrix.
constexpr int kTileRows = 64;
constexpr int kTileColumns = 256;
constexpr int kBandRows = 8;

FASTOPT_HD int64_t tiles_along(int64_t n, int64_t tile) { return (n + tile - 1) / tile; }

FASTOPT_HD int64_t tiles_per_matrix(const Matrices& shape) {
    return tiles_along(shape.rows, kTileRows) * tiles_along(shape.columns, kTileColumns);
}

struct MatrixTile {
    int64_t matrix, first_row, first_column;
    int rows, columns;

    FASTOPT_HD MatrixTile(const Matrices& of, int64_t unit) : all_rows_(of.rows), all_columns_(of.columns) {
        const int64_t across = tiles_along(of.columns, kTileColumns), per_matrix = tiles_per_matrix(of);
        matrix = unit / per_matrix;
        first_row = unit % per_matrix / across * kTileRows;
        first_column = unit % across * kTileColumns;
        rows = int(of.rows - first_row < kTileRows ? of.rows - first_row : kTileRows);
        columns = int(of.columns - first_column < kTileColumns ? of.columns - first_column : kTileColumns);
    }

    // The offset of a row's first element.
    FASTOPT_HD int64_t at(int row) const {
        return (matrix * all_rows_ + first_row + row) * all_columns_ + first_column;
    }

   private:
    int64_t all_rows_, all_columns_;
};

// The beginning of scratch memory: the rule's scale, and two sums for each part (chunk or tile) of the tensor: of the
// squares of the parameter and of what is measured, or, of a grouped rule, of its two terms.
struct StepScratch {
    int64_t parts;
    double *scale, *first_sums, *second_sums;

    FASTOPT_HD StepScratch(double* scratch, int64_t of_parts)
        : parts(of_parts), scale(scratch), first_sums(scale + 1), second_sums(first_sums + of_parts) {}

    // In doubles, like all sizes here.
    FASTOPT_HD static int64_t size(int64_t of_parts) { return 1 + 2 * of_parts; }
};

// For a scaled or grouped rule.
struct ScaledScratch : StepScratch {
    FASTOPT_HD ScaledScratch(double* scratch, int64_t n) : StepScratch(scratch, parts_of(n)) {}

    FASTOPT_HD static int64_t parts_of(int64_t n) { return tiles_along(n, kSumChunk); }
    FASTOPT_HD static int64_t size(int64_t n) { return StepScratch::size(parts_of(n)); }
};

// Partial sums of each row (one per tile across) and column (one per tile down) of a matrix, and the factors.
struct FactoredScratch : StepScratch {
    int64_t across, down;

    FASTOPT_HD FactoredScratch(double* scratch, const Matrices& shape)
        : StepScratch(scratch, parts_of(shape)),
          across(tiles_along(shape.columns, kTileColumns)),
          down(tiles_along(shape.rows, kTileRows)),
          shape_(shape),
          rows_(second_sums + parts),
          columns_(rows_ + shape.count * across * shape.rows),
          row_factors_(columns_ + shape.count * down * shape.columns),
          column_factors_(row_factors_ + shape.count * shape.rows) {}

    FASTOPT_HD static int64_t parts_of(const Matrices& shape) { return shape.count * tiles_per_matrix(shape); }
    FASTOPT_HD static int64_t size(const Matrices& shape) {
        const int64_t wide = tiles_along(shape.columns, kTileColumns), high = tiles_along(shape.rows, kTileRows);
        return StepScratch::size(parts_of(shape)) +
               shape.count * ((wide + 1) * shape.rows + (high + 1) * shape.columns);
    }

    // [across][rows] of a matrix, [down][columns] of a matrix.
    FASTOPT_HD double* row_sums(int64_t matrix) const { return rows_ + matrix * across * shape_.rows; }
    FASTOPT_HD double* column_sums(int64_t matrix) const { return columns_ + matrix * down * shape_.columns; }
    FASTOPT_HD double* row_sums(const MatrixTile& tile) const {
        return row_sums(tile.matrix) + tile.first_column / kTileColumns * shape_.rows + tile.first_row;
    }
    FASTOPT_HD double* column_sums(const MatrixTile& tile) const {
        return column_sums(tile.matrix) + tile.first_row / kTileRows * shape_.columns + tile.first_column;
    }

    template <class T>
    FASTOPT_HD T* row_factors(int64_t matrix) const {
        return reinterpret_cast<T*>(row_factors_) + matrix * shape_.rows;
    }
    template <class T>
    FASTOPT_HD T* column_factors(int64_t matrix) const {
        return reinterpret_cast<T*>(column_factors_) + matrix * shape_.columns;
    }

   private:
    Matrices shape_;
    double *rows_, *columns_, *row_factors_, *column_factors_;
};

// The parts over which a monitored step gathers its statistics.
FASTOPT_HD int64_t parts_of(const Task& task) {
    return task.shape.count > 0 ? FactoredScratch::parts_of(task.shape) : ScaledScratch::parts_of(task.n);
}

}  // namespace
}  // namespace fastopt
