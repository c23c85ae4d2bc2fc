// Adafactor for matrices on a device: three walks over their tiles, which move 8, 4 and 12 bytes per float32 element.
#pragma once

#include "cuda/optim/matrices.h"
#include "cuda/optim/scalars.h"
#include "cuda/optim/statistics.h"
#include "cuda/row.h"
#include "cuda/warp.h"
#include "rules/adafactor.h"

namespace fastopt::cuda {
namespace {

// Blocks per multiprocessor, for kernels that would take more registers without a bound: more blocks have more loads
// in flight.
template <class Operands>
constexpr int kTileBlocks = 2;
template <class Format>
constexpr int kTileBlocks<Typed<Format>> = sizeof(typename Format::Compute) == sizeof(float) ? 4 : 2;

// A thread's factors of 1 / sqrt(second moment).
template <class T>
struct Factors {
    const T* rows;
    int row_count;
    T columns[kRowSteps];

    __device__ __forceinline__ Factors(const FactoredScratch& scratch, const ThreadTile& place)
        : rows(scratch.row_factors<T>(place.tile.matrix) + place.tile.first_row + place.first_row()),
          row_count(place.rows) {
        load_row<Plain<T>>(scratch.column_factors<T>(place.tile.matrix), place.tile.first_column, place.columns,
                           place.lane, columns);
    }

    __device__ __forceinline__ T row(int step) const { return step < row_count ? rows[step] : T(0); }
};

// Adds up the lanes of a tile's bands in order and merges them; each team's first thread has the result.
__device__ __forceinline__ double sum_of_tile(const ThreadTile& place, double lane, double* lanes) {
    lanes[threadIdx.x] = lane;
    __syncthreads();
    double sum = 0;
    for (int band = 0; band < place.teams.bands; ++band) sum += lanes[place.thread_of(band, place.lane)];
    return merge_lanes(sum, Squares::join, place.teams.lanes);
}

// The gradient's squares by row and by column, and the parameter's squares.
template <class Operands>
__global__ void __launch_bounds__(kTileThreads) measure_tiles(const __grid_constant__ MatrixTensors tensors) {
    using T = typename Operands::Compute;
    FASTOPT_SHARED(double[kTileThreads], lanes);
    FASTOPT_SHARED(double[kRowSteps * kTileThreads], columns);
    const ThreadTile place(tensors);
    const ScalarSet& set = *tensors.scalars[place.tensor];
    if (set.skip != 0) return;
    const Gradients<T> gradients(set);
    const Rows<Operands> own(tensors, place, set);
    const FactoredScratch scratch = scratch_of(tensors, place.tensor);
    double* const row_sums = scratch.row_sums(place.tile) + place.first_row();
    double column_squares[kRowSteps] = {}, param_squares = 0;
    for (int step = 0; step < place.steps; ++step) {
        T param[kRowSteps], grad[kRowSteps];
        own.load_param(step, param);
        own.load_grad(step, grad);
        gradients.prepare(param, grad, kRowSteps);
        double row_squares = 0;
        for (int k = 0; k < kRowSteps; ++k) {
            if (place.lane + k * kLanes >= own.count(step)) continue;
            const double square = double(grad[k]) * double(grad[k]);
            row_squares += square;
            column_squares[k] += square;
            param_squares += double(param[k]) * double(param[k]);
        }
        row_squares = merge_lanes(row_squares, Squares::join, place.teams.lanes);
        if (place.lane == 0 && step < place.rows) row_sums[step] = row_squares;
    }

    for (int k = 0; k < kRowSteps; ++k) columns[k * kTileThreads + threadIdx.x] = column_squares[k];
    param_squares = sum_of_tile(place, param_squares, lanes);  // includes a barrier
    if (place.is_first()) scratch.first_sums[place.unit] = param_squares;
    for (int column = place.index; column < place.columns; column += place.teams.threads()) {
        const int row_step = column / kLanes * kTileThreads;
        double sum = 0;
        for (int band = 0; band < place.teams.bands; ++band)
            sum += columns[row_step + place.thread_of(band, column % kLanes)];
        scratch.column_sums(place.tile)[column] = sum;
    }
}

// The update's squares.
template <class Operands>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<Operands>)
    measure_updates(const __grid_constant__ MatrixTensors tensors) {
    using T = typename Operands::Compute;
    FASTOPT_SHARED(double[kTileThreads], lanes);
    const ThreadTile place(tensors);
    const ScalarSet& set = *tensors.scalars[place.tensor];
    if (set.skip != 0) return;
    const Gradients<T> gradients(set);
    const auto c = scalars_from<Adafactor::Scalars>(rule_of<T>(set));
    const Rows<Operands> own(tensors, place, set);
    const FactoredScratch scratch = scratch_of(tensors, place.tensor);
    const Factors<T> factors(scratch, place);
    double squares = 0;
    for (int step = 0; step < place.steps; ++step) {
        T param[kRowSteps] = {}, grad[kRowSteps];
        if (Prologue::penalizes(gradients.common)) own.load_param(step, param);
        own.load_grad(step, grad);
        gradients.prepare(param, grad, kRowSteps);
        const T row_factor = factors.row(step);
        for (int k = 0; k < kRowSteps; ++k) {
            if (place.lane + k * kLanes >= own.count(step)) continue;
            const T update = Adafactor::update(grad[k], row_factor * factors.columns[k], c);
            squares += double(update) * double(update);
        }
    }
    squares = sum_of_tile(place, squares, lanes);
    if (place.is_first()) scratch.second_sums[place.unit] = squares;
}

// The update. `kMeasures`: also leaves statistics.
template <class Operands, bool kMeasures>
__global__ void __launch_bounds__(kTileThreads, kMeasures ? 2 : kTileBlocks<Operands>)
    apply_updates(const __grid_constant__ MatrixTensors tensors) {
    using T = typename Operands::Compute;
    const ThreadTile place(tensors);
    const ScalarSet& set = *tensors.scalars[place.tensor];
    if (set.skip != 0) return;
    const Gradients<T> gradients(set);
    const auto c = scalars_from<Adafactor::Scalars>(rule_of<T>(set));
    const Rows<Operands> own(tensors, place, set);
    const FactoredScratch scratch = scratch_of(tensors, place.tensor);
    const Factors<T> of_tile(scratch, place);
    const T scale = T(*scratch.scale);
    Statistics<T> statistics;
    for (int step = 0; step < place.steps; ++step) {
        // A measured step reads them for each row, because it has no registers for them all the time.
        const Factors<T> factors = kMeasures ? Factors<T>(scratch, place) : of_tile;
        T param[kRowSteps], grad[kRowSteps], before[kRowSteps];
        own.load_param(step, param);
        own.load_grad(step, grad);
        gradients.unscale(grad, kRowSteps);
        if (gradients.unscales) own.store_grad(step, grad);
        Prologue::gradient(param, grad, kRowSteps, gradients.common);
        const T row_factor = factors.row(step);
        for (int k = 0; k < kRowSteps; ++k) before[k] = param[k];
        for (int k = 0; k < kRowSteps; ++k)
            param[k] = Prologue::decayed(param[k], gradients.common) -
                       scale * Adafactor::update(grad[k], row_factor * factors.columns[k], c);
        own.store_param(step, param);
        if constexpr (kMeasures) {
            // Reads again what was kept, into registers that are free: all of it at once would need too many.
            own.load_param(step, param);
            for (int k = 0; k < kRowSteps; ++k)
                if (place.lane + k * kLanes < own.count(step)) statistics.add_movement(before[k], param[k]);
            own.load_grad(step, grad);
            for (int k = 0; k < kRowSteps; ++k)
                if (place.lane + k * kLanes < own.count(step)) statistics.add_gradient(grad[k]);
        }
    }
    if constexpr (kMeasures) {
        FASTOPT_SHARED(double[kStatistics * kTileThreads], lanes);
        const int64_t parts = FactoredScratch::parts_of(tensors.shapes[place.tensor]);
        statistics.leave(tensors.statistics[place.tensor] + place.unit, parts, place.is_first(),
                         [&](int k, double lane) { return sum_of_tile(place, lane, lanes + k * kTileThreads); });
    }
}

}  // namespace
}  // namespace fastopt::cuda
