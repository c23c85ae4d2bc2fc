// What the kernels for rows share: layer and RMS normalization, and groups of short channels, where a row has several
// sets. A team of warps has a set: one warp where sets are short, and then a block has several teams; otherwise the
// whole block.
//
// RMS normalization is layer normalization about 0. Its offset is -0, which changes no number.
#pragma once

#include "cuda/norm/lanes.h"

namespace fastopt::cuda {
namespace {

constexpr int kMostWarps = 8, kMostTeams = 4;                  // of a block
constexpr int kFlushes = int(kChunk / kBlock / kFlushPieces);  // per chunk
constexpr int64_t kStagedBytes = 96 << 10;  // of shared memory for rows that are read from there again, at most

struct RowGrid {
    int warps, teams;  // per row, per block
    bool centered;     // otherwise RMS
    bool staged;       // in shared memory
};

class Team {
   public:
    int64_t row;
    int index, warps, warp, thread, threads;

    __device__ __forceinline__ explicit Team(const RowGrid& grid) : warps(grid.warps), threads(grid.warps * kLanes) {
        index = grid.teams == 1 ? 0 : int(threadIdx.x) / kLanes;
        thread = int(threadIdx.x) - index * threads;
        warp = thread / kLanes;
        row = int64_t(blockIdx.x) * grid.teams + index;
    }
    __device__ __forceinline__ int lane() const { return thread % kLanes; }
    __device__ __forceinline__ void sync() const {
        if (warps == 1)
            __syncwarp();
        else
            __syncthreads();
    }

    // Calls use(load(v), v) for this thread's share of `count` vectors; `kAtOnce` loads are in flight at a time.
    template <int kAtOnce, class Load, class Use>
    __device__ __forceinline__ void for_vectors(int64_t count, Load load, Use use) const {
        for (int64_t first = thread; first < count; first += kAtOnce * threads) {
            decltype(load(int64_t{})) loaded[kAtOnce];
            FASTOPT_UNROLL
            for (int k = 0; k < kAtOnce; ++k)
                if (first + k * threads < count) loaded[k] = load(first + k * threads);
            FASTOPT_UNROLL
            for (int k = 0; k < kAtOnce; ++k)
                if (first + k * threads < count) use(loaded[k], first + k * threads);
        }
    }
};

// A flush block of a row, and the number of elements in its first piece.
struct Flush {
    int64_t begin;
    int n, first;
};

// Where a piece of a row begins; the one after the last begins at the end.
__device__ __forceinline__ int64_t begin_in_row(const NormLayout& l, int64_t piece) {
    const int64_t at = begin_of(l, piece);
    return at < l.inner ? at : l.inner;
}

__device__ __forceinline__ Flush flush_of(const NormLayout& l, PieceRange pieces) {
    const int64_t begin = begin_in_row(l, pieces.begin);
    return {begin, int(begin_in_row(l, pieces.end) - begin), int(begin_in_row(l, pieces.begin + 1) - begin)};
}

template <class Join>
__device__ __forceinline__ void join_next(PartialSums& all, const PartialSums& part, int64_t before, int64_t n) {
    Join::join(all, part, before == 0 ? Share{1, 0} : Join::share_of(double(before), double(n)));
}

// Joins a row's flush blocks by chunks; a warp's `sum(flush)` returns the result of one in lane 0. The result is in
// the team's first thread.
template <class Join, class Sum>
__device__ __forceinline__ PartialSums gather_row(const NormLayout& l, const Team& team, Sum sum) {
    FASTOPT_SHARED(PartialSums[kFlushes], parts);
    PartialSums all{};
    for (int64_t chunk = 0; chunk < l.chunks; ++chunk) {
        const PieceRange pieces = pieces_of(l, chunk);
        const int64_t begin = begin_in_row(l, pieces.begin);
        const int flushes = int((pieces.end - pieces.begin + kFlushPieces - 1) / kFlushPieces);
        const auto flush = [&](int k) {
            const int64_t first = pieces.begin + k * kFlushPieces, end = first + kFlushPieces;
            return flush_of(l, {first, end < pieces.end ? end : pieces.end});
        };
        PartialSums of_chunk{};
        const auto join = [&](int k, const PartialSums& part) {
            const Flush own = flush(k);
            join_next<Join>(of_chunk, part, own.begin - begin, own.n);
        };
        for (int k = team.warp; k < flushes; k += team.warps) {
            const PartialSums part = sum(flush(k));
            if (team.warps == 1)
                join(k, part);
            else if (team.lane() == 0)
                parts[k] = part;
        }
        if (team.warps > 1) {
            __syncthreads();
            if (team.thread == 0)
                for (int k = 0; k < flushes; ++k) join(k, parts[k]);
            if (chunk + 1 < l.chunks) __syncthreads();
        }
        join_next<Join>(all, of_chunk, begin, begin_in_row(l, pieces.end) - begin);
    }
    return all;
}

template <class T>
__device__ __forceinline__ Coefficients<T> coefficients_of_row(double mean, double inverse_std, bool centered) {
    const Coefficients<T> of = coefficients<T>(mean, inverse_std, 1, 0);
    return {of.center, of.scale, centered ? of.offset : T(-0.0)};
}

// Where the weights of a set begin, among those of a row's elements.
__device__ __forceinline__ int64_t parameters_of_set(const NormTask& task, int64_t set) {
    return task.row_sets == 1 ? 0 : set % task.row_sets * task.sets.inner;
}

// Weights or biases of the elements from `at` on, of the input's type or float32. All rows read them.
template <class Format, int N>
__device__ __forceinline__ void load_parameters(const NormTask& task, const Array& from, int64_t at,
                                                typename Format::Compute (&values)[N]) {
    if (task.row_repeat > 1) {  // neighbours share one
        for (int k = 0; k < N; ++k)
            values[k] = load_element<typename Format::Compute>(from.data, from.type,
                                                               unsigned(at + k) / unsigned(task.row_repeat));
        return;
    }
    if constexpr (sizeof(typename Format::Storage) < sizeof(float)) {
        if (from.type == DType::f32) {
            constexpr int kWidth = N == 1 ? 1 : 4;
            FASTOPT_UNROLL
            for (int k = 0; k < N; k += kWidth) {
                Stored<Plain<float>, kWidth> some;
                float wide[kWidth];
                some.load_shared(from.data, at + k);
                some.unpack(wide);
                for (int i = 0; i < kWidth; ++i) values[k + i] = wide[i];
            }
            return;
        }
    }
    Stored<Format, N> stored;
    stored.load_shared(from.data, at);
    stored.unpack(values);
}

// z, before the activation, from x. `rounds`: the normalized value is rounded to the input's type.
template <class Format, int N>
__device__ __forceinline__ void normalize(const NormTask& task, int64_t at,
                                          const Coefficients<typename Format::Compute>& of, bool rounds,
                                          typename Format::Compute (&x)[N]) {
    typename Format::Compute parameters[N];
    for (int k = 0; k < N; ++k) x[k] = normalized(x[k], of.center, of.scale, of.offset);
    if (sizeof(typename Format::Storage) < sizeof(float) && rounds)
        for (int k = 0; k < N; ++k) x[k] = Format::load(Format::store(x[k]));
    if (task.weight.data != nullptr) {
        load_parameters<Format>(task, task.weight, at, parameters);
        for (int k = 0; k < N; ++k) x[k] = x[k] * parameters[k];
    }
    if (task.bias.data != nullptr) {
        load_parameters<Format>(task, task.bias, at, parameters);
        for (int k = 0; k < N; ++k) x[k] = x[k] + parameters[k];
    }
}

// One kernel has all activations: most of its code is sums, and each would repeat it.

template <class T, int N>
__device__ __forceinline__ void activate(int activation, T slope, T (&z)[N]) {
    int index = 0;
#define FASTOPT_ACTIVATE(name, Activation)                                 \
    if (activation == index++) {                                           \
        FASTOPT_UNROLL                                                     \
        for (int k = 0; k < N; ++k) z[k] = Activation::value(z[k], slope); \
        return;                                                            \
    }
    FASTOPT_ACTIVATIONS(FASTOPT_ACTIVATE)
}

template <class T, int N>
__device__ __forceinline__ void pass_gradient(int activation, T slope, const T (&z)[N], T (&grad)[N]) {
    int index = 0;
#define FASTOPT_PASS_GRADIENT(name, Activation)                                           \
    if (activation == index++) {                                                          \
        FASTOPT_UNROLL                                                                    \
        for (int k = 0; k < N; ++k) grad[k] = Activation::gradient(z[k], grad[k], slope); \
        return;                                                                           \
    }
    FASTOPT_ACTIVATIONS(FASTOPT_PASS_GRADIENT)
}

template <class Storage>
constexpr int kWidth = int(sizeof(uint4) / sizeof(Storage));

// Teams for rows of `n` elements, of which one takes `bytes` of shared memory, if any.
inline RowGrid row_grid(int64_t n, int64_t bytes, bool centered) {
    const int warps = n <= kBlock ? 1 : n <= kBlock * kFlushPieces ? 4 : kMostWarps;
    const bool staged = bytes > 0 && bytes <= kStagedBytes;
    const int64_t fit = warps > 1 ? 1 : staged ? kStagedBytes / 2 / bytes : kMostTeams;
    return {warps, int(fit < 1 ? 1 : fit < kMostTeams ? fit : kMostTeams), centered, staged};
}

template <class... Arrays>
bool all_aligned(const Arrays&... operands) {
    return (is_aligned(operands.data) && ...);
}

inline int64_t element_bytes(DType type) { return type == DType::f64 ? 8 : type == DType::f32 ? 4 : 2; }

constexpr int kResident = 3;  // blocks of float32 kernels on a multiprocessor at a time, at least

template <class Kernel>
void launch_rows(const Stream& stream, const char* name, Kernel kernel, const NormTask& task, const RowGrid& grid,
                 int64_t bytes) {
    const size_t shared = grid.staged ? static_cast<size_t>(grid.teams * bytes) : 0;
    launch(stream, name, kernel,
           {(task.set_count + grid.teams - 1) / grid.teams, grid.teams * grid.warps * kLanes, shared}, task, grid);
}

}  // namespace
}  // namespace fastopt::cuda
