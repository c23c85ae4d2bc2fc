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
template <class Format, int kWidth>
constexpr int kTileBlocks<Typed<Format, kWidth>> = kWidth > 1 ? 3 : 4;
template <>
constexpr int kTileBlocks<Typed<Plain<double>>> = 2;

// Elements of a row that a thread computes at a time. Half types stay packed until then, which saves registers.
template <class Operands>
constexpr int kMeasured = Operands::kWidth > 1 ? kRowSteps / 2 : kRowSteps;
template <class Operands>
constexpr int kUpdated = kRowSteps;
template <class Half, int kWidth>
constexpr int kUpdated<Typed<Narrow<Half>, kWidth>> = kRowSteps / 2;

// A thread's factors of 1 / sqrt(second moment).
template <class T, int kWidth>
struct Factors {
    const T* rows;
    int row_count;
    T columns[kRowSteps * kWidth];

    __device__ __forceinline__ Factors(const FactoredScratch& scratch, const ThreadTile<kWidth>& place)
        : rows(scratch.row_factors<T>(place.tile.matrix) + place.tile.first_row + place.first_row()),
          row_count(place.rows) {
        load_row<Plain<T>, kWidth>(scratch.column_factors<T>(place.tile.matrix), place.tile.first_column, place.columns,
                                   place.lane, columns);
    }

    __device__ __forceinline__ T row(int step) const { return step < row_count ? rows[step] : T(0); }
};

// Adds up the lanes of a tile's bands in order and merges them; each team's first thread has the result.
template <int kWidth>
__device__ __forceinline__ double sum_of_tile(const ThreadTile<kWidth>& place, const double (&own)[kWidth],
                                              double* lanes) {
    for (int e = 0; e < kWidth; ++e) lanes[e * kTileThreads + int(threadIdx.x)] = own[e];
    __syncthreads();
    double sums[kWidth] = {};
    for (int band = 0; band < place.teams.bands; ++band)
        for (int e = 0; e < kWidth; ++e) sums[e] += lanes[e * kTileThreads + place.thread_of(band, place.lane)];
    return merge_lanes(sums, Squares::join, place.team());
}

// The gradient's squares by row and by column, and the parameter's squares.
template <class Operands>
__global__ void __launch_bounds__(kTileThreads) measure_tiles(const __grid_constant__ MatrixTensors tensors) {
    using T = typename Operands::Compute;
    constexpr int kWidth = Operands::kWidth, kOwn = kRowSteps * kWidth, kChunk = kMeasured<Operands>;
    FASTOPT_SHARED(double[kWidth * kTileThreads], lanes);
    FASTOPT_SHARED(double[kOwn * kTileThreads], columns);
    const ThreadTile<kWidth> place(tensors);
    const ScalarSet& set = *tensors.scalars[place.tensor];
    if (set.skip != 0) return;
    const Gradients<T> gradients(set);
    const Rows<Operands> own(tensors, place, set);
    const FactoredScratch scratch = scratch_of(tensors, place.tensor);
    double* const row_sums = scratch.row_sums(place.tile) + place.first_row();
    double column_squares[kOwn] = {}, param_squares[kWidth] = {};
    for (int step = 0; step < place.steps; ++step) {
        typename Operands::Row params, grads;
        own.load_param(step, params);
        own.load_grad(step, grads);
        double row_squares[kWidth] = {};
        for (int first = 0; first < kOwn; first += kChunk) {
            T param[kChunk], grad[kChunk];
            params.unpack(first, param);
            grads.unpack(first, grad);
            gradients.prepare(param, grad, kChunk);
            for (int i = 0; i < kChunk; ++i) {
                if (!own.has(step, first + i)) continue;
                const double square = double(grad[i]) * double(grad[i]);
                row_squares[i % kWidth] += square;
                column_squares[first + i] += square;
                param_squares[i % kWidth] += double(param[i]) * double(param[i]);
            }
        }
        const double row_sum = merge_lanes(row_squares, Squares::join, place.team());
        if (place.lane == 0 && step < place.rows) row_sums[step] = row_sum;
    }

    for (int i = 0; i < kOwn; ++i) columns[i * kTileThreads + int(threadIdx.x)] = column_squares[i];
    const double all_squares = sum_of_tile(place, param_squares, lanes);  // includes a barrier
    if (place.is_first()) scratch.first_sums[place.unit] = all_squares;
    for (int column = place.index; column < place.columns; column += place.teams.threads()) {
        const int i = column / kLanes * kWidth + column % kWidth;
        double sum = 0;
        for (int band = 0; band < place.teams.bands; ++band)
            sum += columns[i * kTileThreads + place.thread_of(band, column % kLanes)];
        scratch.column_sums(place.tile)[column] = sum;
    }
}

// The update's squares.
template <class Operands>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks<Operands>)
    measure_updates(const __grid_constant__ MatrixTensors tensors) {
    using T = typename Operands::Compute;
    constexpr int kWidth = Operands::kWidth, kOwn = kRowSteps * kWidth, kChunk = kMeasured<Operands>;
    FASTOPT_SHARED(double[kWidth * kTileThreads], lanes);
    const ThreadTile<kWidth> place(tensors);
    const ScalarSet& set = *tensors.scalars[place.tensor];
    if (set.skip != 0) return;
    const Gradients<T> gradients(set);
    const auto c = scalars_from<Adafactor::Scalars>(rule_of<T>(set));
    const Rows<Operands> own(tensors, place, set);
    const FactoredScratch scratch = scratch_of(tensors, place.tensor);
    const Factors<T, kWidth> factors(scratch, place);
    double squares[kWidth] = {};
    for (int step = 0; step < place.steps; ++step) {
        typename Operands::Row params{}, grads;
        if (Prologue::penalizes(gradients.common)) own.load_param(step, params);
        const T row_factor = factors.row(step);
        own.load_grad(step, grads);
        end_loads();
        for (int first = 0; first < kOwn; first += kChunk) {
            T param[kChunk], grad[kChunk];
            params.unpack(first, param);
            grads.unpack(first, grad);
            gradients.prepare(param, grad, kChunk);
            for (int i = 0; i < kChunk; ++i) {
                if (!own.has(step, first + i)) continue;
                const T update = Adafactor::update(grad[i], row_factor * factors.columns[first + i], c);
                squares[i % kWidth] += double(update) * double(update);
            }
        }
    }
    const double sum = sum_of_tile(place, squares, lanes);
    if (place.is_first()) scratch.second_sums[place.unit] = sum;
}

// The update. `kMeasures`: also leaves statistics.
template <class Operands, bool kMeasures>
__global__ void __launch_bounds__(kTileThreads, kMeasures ? 2 : kTileBlocks<Operands>)
    apply_updates(const __grid_constant__ MatrixTensors tensors) {
    using T = typename Operands::Compute;
    constexpr int kWidth = Operands::kWidth, kOwn = kRowSteps * kWidth, kChunk = kUpdated<Operands>;
    const ThreadTile<kWidth> place(tensors);
    const ScalarSet& set = *tensors.scalars[place.tensor];
    if (set.skip != 0) return;
    const Gradients<T> gradients(set);
    const auto c = scalars_from<Adafactor::Scalars>(rule_of<T>(set));
    const Rows<Operands> own(tensors, place, set);
    const FactoredScratch scratch = scratch_of(tensors, place.tensor);
    const Factors<T, kWidth> of_tile(scratch, place);
    const T scale = T(*scratch.scale);
    Statistics<T> statistics;
    for (int step = 0; step < place.steps; ++step) {
        // A measured step reads them for each row, because it has no registers for them all the time.
        const Factors<T, kWidth> factors = kMeasures ? Factors<T, kWidth>(scratch, place) : of_tile;
        typename Operands::Row params, grads;
        const T row_factor = factors.row(step);
        own.load_param(step, params);
        own.load_grad(step, grads);
        end_loads();
        for (int first = 0; first < kOwn; first += kChunk) {
            T param[kChunk], grad[kChunk], before[kChunk];
            params.unpack(first, param);
            grads.unpack(first, grad);
            gradients.unscale(grad, kChunk);
            if (gradients.unscales) own.store_grad(step, first, grad);
            Prologue::gradient(param, grad, kChunk, gradients.common);
            for (int i = 0; i < kChunk; ++i) before[i] = param[i];
            for (int i = 0; i < kChunk; ++i)
                param[i] = Prologue::decayed(param[i], gradients.common) -
                           scale * Adafactor::update(grad[i], row_factor * factors.columns[first + i], c);
            own.store_param(step, first, param);
            if constexpr (kMeasures) {
                // Reads again what was kept, into registers that are free: all of it at once would need too many.
                own.load_param(step, params);
                params.unpack(first, param);
                for (int i = 0; i < kChunk; ++i)
                    if (own.has(step, first + i)) statistics.add_movement(before[i], param[i]);
                own.load_grad(step, grads);
                grads.unpack(first, grad);
                for (int i = 0; i < kChunk; ++i)
                    if (own.has(step, first + i)) statistics.add_gradient(grad[i]);
            }
        }
    }
    if constexpr (kMeasures) {
        static_assert(kWidth == 1, "statistics have one lane per thread");
        FASTOPT_SHARED(double[kStatistics * kTileThreads], lanes);
        const int64_t parts = FactoredScratch::parts_of(tensors.shapes[place.tensor]);
        statistics.leave(tensors.statistics[place.tensor] + place.unit, parts, place.is_first(),
                         [&](int k, double lane) { return sum_of_tile<1>(place, {lane}, lanes + k * kTileThreads); });
    }
}

}  // namespace
}  // namespace fastopt::cuda
