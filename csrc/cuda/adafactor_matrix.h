// Adafactor of matrices on a device: the three walks over their tiles. Bytes per float32 element: 8, 4, and 12.
#pragma once

#include "../rules/adafactor.h"
#include "matrices.h"
#include "row.h"
#include "scalars.h"
#include "warp.h"

namespace fastopt::cuda {
namespace {

// The lanes of a tile's bands, one after the other; merged, for the first thread of each team.
__device__ __forceinline__ double sum_of_tile(const Place& place, double lane, double* lanes) {
    lanes[threadIdx.x] = lane;
    __syncthreads();
    double sum = 0;
    for (int band = 0; band < place.teams.bands; ++band) sum += lanes[place.thread_of(band, place.lane)];
    return merge_lanes(sum, Squares::join, place.teams.lanes);
}

// Squares of the gradient, by row and by column, and of the parameter.
template <class Format>
__global__ void __launch_bounds__(kTileThreads) measure_tiles(const __grid_constant__ MatrixTensors tensors) {
    using T = typename Format::Compute;
    FASTOPT_SHARED(double[kTileThreads], lanes);
    FASTOPT_SHARED(double[kRowSteps * kTileThreads], columns);
    const Place place(tensors);
    const ScalarSet& set = *tensors.scalars[place.tensor];
    if (set.skip != 0) return;
    const Gradients<T> gradients(set);
    const FactoredScratch scratch = scratch_of(tensors, place.tensor);
    const MatrixTile& tile = place.tile;
    void* const* const arrays = tensors.arrays[place.tensor];
    double column_squares[kRowSteps] = {}, param_squares = 0;
    for (int step = 0; step < place.steps; ++step) {
        const int row = place.first_row + step, count = place.columns_of(row);
        T param[kRowSteps], grad[kRowSteps];
        load_row<Format>(arrays[kParam], tile.at(row), count, place.lane, param);
        load_row<Format>(arrays[kGrad], tile.at(row), count, place.lane, grad);
        gradients.prepare(param, grad, kRowSteps);
        double row_squares = 0;
        for (int k = 0; k < kRowSteps; ++k) {
            if (place.lane + k * kLanes >= count) continue;
            const double square = double(grad[k]) * double(grad[k]);
            row_squares += square;
            column_squares[k] += square;
            param_squares += double(param[k]) * double(param[k]);
        }
        row_squares = merge_lanes(row_squares, Squares::join, place.teams.lanes);
        if (place.lane == 0 && count > 0) scratch.row_sums(tile)[row] = row_squares;
    }

    for (int k = 0; k < kRowSteps; ++k) columns[k * kTileThreads + threadIdx.x] = column_squares[k];
    param_squares = sum_of_tile(place, param_squares, lanes);  // and a barrier
    if (place.is_first()) scratch.param_squares[place.unit] = param_squares;
    for (int column = place.index; column < place.columns_of(0); column += place.teams.threads()) {
        const int row_step = column / kLanes * kTileThreads;
        double sum = 0;
        for (int band = 0; band < place.teams.bands; ++band)
            sum += columns[row_step + place.thread_of(band, column % kLanes)];
        scratch.column_sums(tile)[column] = sum;
    }
}

// Squares of the update.
template <class Format>
__global__ void __launch_bounds__(kTileThreads) measure_updates(const __grid_constant__ MatrixTensors tensors) {
    using T = typename Format::Compute;
    FASTOPT_SHARED(double[kTileThreads], lanes);
    const Place place(tensors);
    const ScalarSet& set = *tensors.scalars[place.tensor];
    if (set.skip != 0) return;
    const Gradients<T> gradients(set);
    const bool penalizes = Prologue::penalizes(gradients.common);
    const auto c = scalars_from<Adafactor::Scalars>(rule_of<T>(set));
    const FactoredScratch scratch = scratch_of(tensors, place.tensor);
    const MatrixTile& tile = place.tile;
    void* const* const arrays = tensors.arrays[place.tensor];
    const T* const row_factors = scratch.row_factors<T>(tile.matrix) + tile.first_row;
    T column_factors[kRowSteps];
    load_row<Plain<T>>(scratch.column_factors<T>(tile.matrix), tile.first_column, place.columns_of(0), place.lane,
                       column_factors);
    double squares = 0;
    for (int step = 0; step < place.steps; ++step) {
        const int row = place.first_row + step, count = place.columns_of(row);
        T param[kRowSteps] = {}, grad[kRowSteps];
        if (penalizes) load_row<Format>(arrays[kParam], tile.at(row), count, place.lane, param);
        load_row<Format>(arrays[kGrad], tile.at(row), count, place.lane, grad);
        gradients.prepare(param, grad, kRowSteps);
        const T row_factor = count > 0 ? row_factors[row] : T(0);
        for (int k = 0; k < kRowSteps; ++k) {
            if (place.lane + k * kLanes >= count) continue;
            const T update = Adafactor::update(grad[k], row_factor * column_factors[k], c);
            squares += double(update) * double(update);
        }
    }
    squares = sum_of_tile(place, squares, lanes);
    if (place.is_first()) scratch.update_squares[place.unit] = squares;
}

// The update.
template <class Format>
__global__ void __launch_bounds__(kTileThreads) apply_updates(const __grid_constant__ MatrixTensors tensors) {
    using T = typename Format::Compute;
    const Place place(tensors);
    const ScalarSet& set = *tensors.scalars[place.tensor];
    if (set.skip != 0) return;
    const Gradients<T> gradients(set);
    const auto c = scalars_from<Adafactor::Scalars>(rule_of<T>(set));
    const FactoredScratch scratch = scratch_of(tensors, place.tensor);
    const MatrixTile& tile = place.tile;
    void* const* const arrays = tensors.arrays[place.tensor];
    const T* const row_factors = scratch.row_factors<T>(tile.matrix) + tile.first_row;
    const T step_size = T(*scratch.step_size);
    T column_factors[kRowSteps];
    load_row<Plain<T>>(scratch.column_factors<T>(tile.matrix), tile.first_column, place.columns_of(0), place.lane,
                       column_factors);
    for (int step = 0; step < place.steps; ++step) {
        const int row = place.first_row + step, count = place.columns_of(row);
        if (count == 0) break;
        T param[kRowSteps], grad[kRowSteps];
        load_row<Format>(arrays[kParam], tile.at(row), count, place.lane, param);
        load_row<Format>(arrays[kGrad], tile.at(row), count, place.lane, grad);
        gradients.unscale(grad, kRowSteps);
        if (gradients.unscales) store_row<Format>(arrays[kGrad], tile.at(row), count, place.lane, grad);
        Prologue::gradient(param, grad, kRowSteps, gradients.common);
        const T row_factor = row_factors[row];
        for (int k = 0; k < kRowSteps; ++k)
            param[k] = Prologue::decayed(param[k], gradients.common) -
                       step_size * Adafactor::update(grad[k], row_factor * column_factors[k], c);
        store_row<Format>(arrays[kParam], tile.at(row), count, place.lane, param);
    }
}

}  // namespace
}  // namespace fastopt::cuda
