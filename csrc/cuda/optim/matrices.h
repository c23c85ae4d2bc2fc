// Many matrices in one launch, and a thread's place among their tiles.
#pragma once

#include "cuda/optim/group_sum.h"
#include "cuda/optim/operands.h"
#include "cuda/optim/tensors.h"
#include "rules/factored.h"

namespace fastopt::cuda {
namespace {

// Parameter, gradient, second moments of rows and of columns.
constexpr int kFirstState = 2, kMatrixArrays = 4;

// The matrices of one launch, like Tensors.
struct MatrixTensors {
    static constexpr int kEach =
        kMatrixArrays * int(sizeof(void*) + sizeof(DType)) + 8 + int(sizeof(Matrices)) + 8 + 8 + 4 + 8;
    static constexpr int kMax = (int(kParameterBytes) - 32) / kEach;

    void* arrays[kMax][kMatrixArrays];
    double* scratch[kMax];
    Matrices shapes[kMax];
    const ScalarSet* scalars[kMax];
    const Storage* storages[kMax];
    uint32_t end[kMax];
    DType types[kMax][kMatrixArrays];
    double* statistics[kMax];
    int count;
};
static_assert(sizeof(MatrixTensors) <= kParameterBytes);

inline void fill_matrices(MatrixTensors& tensors, int i, const Task& task) {
    const Array* const arrays[] = {&task.param, &task.grad, &task.states[0], &task.states[1]};
    for (int k = 0; k < kMatrixArrays; ++k) {
        tensors.arrays[i][k] = arrays[k]->data;
        tensors.types[i][k] = arrays[k]->type;
    }
    tensors.scratch[i] = task.scratch;
    tensors.shapes[i] = task.shape;
    tensors.statistics[i] = task.statistics;
}

__device__ __forceinline__ FactoredScratch scratch_of(const MatrixTensors& tensors, int tensor) {
    return {tensors.scratch[tensor], tensors.shapes[tensor]};
}

__device__ __forceinline__ int64_t elements_of(const MatrixTensors& tensors, int tensor) {
    const Matrices& shape = tensors.shapes[tensor];
    return shape.count * shape.rows * shape.columns;
}

constexpr int kBands = kTileRows / kBandRows;
constexpr int kTileThreads = kBands * kLanes;

// A tile has a team of threads for each band of its rows; a thread has `width` lanes, of which each has every 32nd
// column. Small matrices have small teams, and a block then takes many tiles.
struct Teams {
    int size, bands;  // powers of two

    FASTOPT_HD Teams(const Matrices& shape, int width)
        : size(power_of_two(shape.columns, kLanes) / width),
          bands(power_of_two(tiles_along(shape.rows, kBandRows), kBands)) {}

    // Threads per tile, tiles per block.
    FASTOPT_HD int threads() const { return size * bands; }
    FASTOPT_HD int tiles() const { return kTileThreads / threads(); }
};

template <int kWidth>
int64_t tile_blocks(const Task& task) {
    return tiles_along(FactoredScratch::parts_of(task.shape), Teams(task.shape, kWidth).tiles());
}

// A thread's place among the tiles of a launch, where threads have `kWidth` lanes.
template <int kWidth>
struct ThreadTile {
    int tensor;
    Teams teams;
    int index, band, lane;  // the thread's index in its tile, its team, its first lane
    int64_t unit;
    MatrixTile tile;
    int columns, rows;  // of the tile; rows count from the team's first row; 0 where there is no tile
    int steps;          // the most rows of any team; the same in the whole block

    __device__ __forceinline__ explicit ThreadTile(const MatrixTensors& tensors)
        : ThreadTile(tensors, tensor_of_block(tensors)) {}

    // Threads of a team.
    __device__ __forceinline__ int team() const { return kWidth > 1 ? kLanes / kWidth : teams.size; }

    // Whether this is the first thread of an existing tile.
    __device__ __forceinline__ bool is_first() const { return index == 0 && columns > 0; }

    // The team's first row in the tile.
    __device__ __forceinline__ int first_row() const { return band * kBandRows; }

    // The index in the block of the thread with this lane in this band of the same tile.
    __device__ __forceinline__ int thread_of(int of_band, int of_lane) const {
        return int(threadIdx.x) - index + of_band * teams.size + of_lane / kWidth;
    }

   private:
    __device__ __forceinline__ ThreadTile(const MatrixTensors& tensors, int of_tensor)
        : ThreadTile(tensors.shapes[of_tensor], of_tensor, block_within(tensors, of_tensor)) {}

    __device__ __forceinline__ ThreadTile(const Matrices& shape, int of_tensor, int64_t block)
        : tensor(of_tensor),
          teams(shape, kWidth),
          index(int(threadIdx.x) % teams.threads()),
          band(index / teams.size),
          lane(index % teams.size * kWidth),
          unit(block * teams.tiles() + int(threadIdx.x) / teams.threads()),
          tile(shape, unit),
          columns(unit < FactoredScratch::parts_of(shape) ? tile.columns : 0),
          rows(columns > 0 ? tile.rows - first_row() : 0),
          steps(int(shape.rows < kBandRows ? shape.rows : kBandRows)) {}
};

// A thread's elements in the rows of its team. A kernel loads a whole row, and takes some of its elements at a time.
template <class Operands>
struct Rows {
    using T = typename Operands::Compute;
    using Row = typename Operands::Row;
    static constexpr int kWidth = Operands::kWidth;
    const Operands operands;
    int64_t at, stride;
    int rows, columns, lane;

    __device__ __forceinline__ Rows(const MatrixTensors& tensors, const ThreadTile<kWidth>& place, const ScalarSet& set)
        : operands(tensors, place.tensor, set, kFirstState),
          at(place.tile.at(place.first_row())),
          stride(tensors.shapes[place.tensor].columns),
          rows(place.rows),
          columns(place.columns),
          lane(place.lane) {}

    // The number of columns of a row; 0 where there is no such row.
    __device__ __forceinline__ int count(int step) const { return step < rows ? columns : 0; }

    // Whether the thread's i-th element exists.
    __device__ __forceinline__ bool has(int step, int i) const { return has_element<kWidth>(count(step), lane, i); }

    __device__ __forceinline__ void load_param(int step, Row& row) const {
        operands.load_param(at + step * stride, count(step), lane, row);
    }
    __device__ __forceinline__ void load_grad(int step, Row& row) const {
        operands.load_grad(at + step * stride, count(step), lane, row);
    }

    // Elements from the thread's `first` on.
    template <int kCount>
    __device__ __forceinline__ void store_param(int step, int first, const T (&values)[kCount]) const {
        operands.store_param(place(step, first), left(step, first), lane, values);
    }
    template <int kCount>
    __device__ __forceinline__ void store_grad(int step, int first, const T (&values)[kCount]) const {
        operands.store_grad(place(step, first), left(step, first), lane, values);
    }

   private:
    __device__ __forceinline__ int64_t place(int step, int first) const {
        return at + step * stride + first / kWidth * kLanes;
    }
    __device__ __forceinline__ int left(int step, int first) const {
        return kWidth > 1 ? count(step) : count(step) - first * kLanes;
    }
};

}  // namespace
}  // namespace fastopt::cuda
