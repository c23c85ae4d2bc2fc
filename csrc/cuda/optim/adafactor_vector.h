// Adafactor of vectors and scalars on a device: their sums, and what happens to an element.
#pragma once

#include "cuda/optim/elementwise.h"
#include "cuda/row.h"
#include "cuda/warp.h"
#include "rules/adafactor.h"

namespace fastopt::cuda {
namespace {

// The last pass, of one element.
struct VectorApply {
    static constexpr int states = 1;  // variance
    static constexpr bool reads_grad = true, reads_scratch = true;

    template <class T>
    struct Constants : Gradients<T> {
        Adafactor::Scalars<T> own;
        T step;
        static constexpr bool rests = false;

        __device__ __forceinline__ Constants(const ScalarSet& set, void* const* arrays)
            : Gradients<T>(set),
              own(scalars_from<Adafactor::Scalars>(rule_of<T>(set))),
              step(T(*static_cast<const double*>(arrays[Places<VectorApply>::scratch]))) {}
    };

    template <class T>
    __device__ __forceinline__ static void update(T& param, T& grad, T* state, const Constants<T>& c) {
        c.unscale(&grad, 1);
        T prepared = grad;
        Prologue::gradient(&param, &prepared, 1, c.common);
        state[0] = Adafactor::moved(state[0], prepared, c.own);
        param = Prologue::decayed(param, c.common) -
                c.step * Adafactor::update(prepared, Adafactor::inverse_root(state[0]), c.own);
    }
};

using VectorTensors = Tensors<Places<VectorApply>::count>;

inline void fill_vectors(VectorTensors& tensors, int i, const Task& task) {
    fill_arrays<VectorApply>(tensors, i, task);
    tensors.n[i] = task.n;
}

__device__ __forceinline__ VectorScratch scratch_of(const VectorTensors& tensors, int tensor) {
    return {static_cast<double*>(tensors.arrays[tensor][Places<VectorApply>::scratch]), tensors.n[tensor]};
}

__device__ __forceinline__ int64_t elements_of(const VectorTensors& tensors, int tensor) { return tensors.n[tensor]; }

constexpr int kVectorWarps = 8;

inline int64_t chunk_blocks(const Task& task) { return tiles_along(task.n, kVectorWarps * kSumChunk); }

// Squares of the parameter and of the update: a warp's are those of a chunk.
template <class Format>
__global__ void __launch_bounds__(kVectorWarps* kLanes) measure_chunks(const __grid_constant__ VectorTensors tensors) {
    using T = typename Format::Compute;
    const Part part = part_of_block(tensors, kVectorWarps * kSumChunk);
    const ScalarSet& set = *tensors.scalars[part.tensor];
    if (set.skip != 0) return;
    const int lane = int(threadIdx.x) % kLanes;
    const int64_t begin = part.begin + int64_t(threadIdx.x) / kLanes * kSumChunk;
    if (begin >= part.end) return;
    const int64_t end = part.end - begin < kSumChunk ? part.end : begin + kSumChunk;
    const Gradients<T> gradients(set);
    const auto c = scalars_from<Adafactor::Scalars>(rule_of<T>(set));
    void* const* const arrays = tensors.arrays[part.tensor];
    const bool wide = tensors.types[part.tensor][2] != tensors.types[part.tensor][0];
    double param_squares = 0, update_squares = 0;
    for (int64_t at = begin; at < end; at += kTileColumns) {
        const int count = int(end - at < kTileColumns ? end - at : kTileColumns);
        T param[kRowSteps], grad[kRowSteps], variance[kRowSteps];
        load_row<Format>(arrays[0], at, count, lane, param);
        load_row<Format>(arrays[1], at, count, lane, grad);
        if (wide)
            load_row<Plain<T>>(arrays[2], at, count, lane, variance);
        else
            load_row<Format>(arrays[2], at, count, lane, variance);
        gradients.prepare(param, grad, kRowSteps);
        for (int k = 0; k < kRowSteps; ++k) {
            if (lane + k * kLanes >= count) continue;
            const T update =
                Adafactor::update(grad[k], Adafactor::inverse_root(Adafactor::moved(variance[k], grad[k], c)), c);
            param_squares += double(param[k]) * double(param[k]);
            update_squares += double(update) * double(update);
        }
    }
    param_squares = merge_lanes(param_squares, Squares::join);
    update_squares = merge_lanes(update_squares, Squares::join);
    if (lane != 0) return;
    const VectorScratch scratch = scratch_of(tensors, part.tensor);
    scratch.param_squares[begin / kSumChunk] = param_squares;
    scratch.update_squares[begin / kSumChunk] = update_squares;
}

}  // namespace
}  // namespace fastopt::cuda
