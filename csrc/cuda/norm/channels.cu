// Work per channel. A warp joins the chunks' partial results of a channel in order: its lanes load 32 of them, and
// compute what depends on counts alone, while it joins the 32 before.
#include "cuda/norm/norm.h"
#include "norm/pieces.h"

namespace fastopt::cuda {
namespace {

// A partial result of a channel, its number of elements, and (`before`) that of all earlier results.
struct Partial {
    PartialSums part;
    double before, count;
};

__device__ __forceinline__ int64_t partials_of_channel(const NormLayout& l) {
    return l.planes ? l.chunks : (l.chunks * l.columns + l.rest) / l.channels;
}

__device__ __forceinline__ Partial partial_of(const NormTask& task, int64_t c, int64_t index) {
    const NormLayout& l = task.layout;
    if (l.planes) {
        const double* const pair = task.partials + 2 * (c * l.chunks + index);
        const PieceRange pieces = pieces_of(l, index);
        return {{pair[0], pair[1]}, double(elements_before(l, pieces.begin)), double(elements_of(l, pieces))};
    }
    // A channel has `inner` adjacent columns in each period; after the last chunk there is a single row.
    const int64_t in_row = l.columns / l.channels, full = l.chunks * in_row;
    const bool is_rest = index >= full;
    const int64_t chunk = is_rest ? l.chunks : index / in_row, k = index - chunk * in_row;
    const int64_t columns = is_rest ? l.rest : l.columns;
    const int64_t column = k / l.inner * l.channels * l.inner + c * l.inner + k % l.inner;
    const double* const firsts = task.partials + 2 * chunk * l.columns + column;
    const int64_t begin = chunk * l.chunk, left = l.rows - begin;
    const int64_t rows = is_rest ? 1 : left < l.chunk ? left : l.chunk, before = is_rest ? l.rows : begin;
    return {{firsts[0], firsts[columns]}, double(before * in_row + rows * k), double(rows)};
}

template <class Join>
__device__ __forceinline__ PartialSums join_partials(const NormTask& task, int64_t c, int lane) {
    const int64_t n = partials_of_channel(task.layout);
    const auto fetch = [&](int64_t index) { return index < n ? partial_of(task, c, index) : Partial{}; };
    PartialSums all{};
    Partial next = fetch(lane);
    for (int64_t first = 0; first < n; first += kLanes) {
        const PartialSums own = next.part;
        const Share of = Join::share_of(next.before, next.count);
        next = fetch(first + kLanes + lane);
        const int some = int(n - first < kLanes ? n - first : kLanes);
        for (int k = 0; k < some; ++k)
            Join::join(all, {__shfl_sync(~0u, own.first, k), __shfl_sync(~0u, own.second, k)},
                       {__shfl_sync(~0u, of.fraction, k), __shfl_sync(~0u, of.weight, k)});
    }
    return all;
}

// Stores the coefficients for the element kernels, in the compute type: [5][channels].
template <class T>
__device__ __forceinline__ void store_coefficients(const NormTask& task, int64_t c) {
    const int64_t channels = task.layout.channels;
    T* const all = static_cast<T*>(task.coefficients) + c;
    const Coefficients<T> of = coefficients_of<T>(task, channel_at(task, c));
    const Projection<T> less = projection_of<T>(task, channel_at(task, c).set);
    all[0] = of.center;
    all[channels] = of.scale;
    all[2 * channels] = of.offset;
    all[3 * channels] = less.mean;
    all[4 * channels] = less.slope;
}

// What is computed from a channel's pair.

template <class T>
struct OfMoments : JoinMoments {
    __device__ __forceinline__ static double* pairs(const NormTask& task) { return task.moments; }
    __device__ __forceinline__ static void finalize(const NormTask& task, int64_t c) {
        if (task.statistics != nullptr) finalize_statistics(task, c);
    }
};

template <class T>
struct OfSums : JoinSums {
    __device__ __forceinline__ static double* pairs(const NormTask& task) { return task.sums; }
    __device__ __forceinline__ static void finalize(const NormTask& task, int64_t c) {
        finalize_sums<T>(task, channel_at(task, c));
        write_parameter_gradients(task, c);
    }
};

constexpr int kWarps = 4;

template <class T, template <class> class Of>
__global__ void __launch_bounds__(kWarps* kLanes) join_chunks(const __grid_constant__ NormTask task) {
    const int lane = int(threadIdx.x) % kLanes;
    const int64_t c = int64_t(blockIdx.x) * kWarps + threadIdx.x / kLanes;
    if (c >= task.layout.channels) return;
    const PartialSums all = join_partials<Of<T>>(task, c, lane);
    if (lane != 0) return;
    double* const pairs = Of<T>::pairs(task);
    pairs[c] = all.first;
    pairs[task.layout.channels + c] = all.second;
    Of<T>::finalize(task, c);
    if (task.coefficients != nullptr) store_coefficients<T>(task, c);
}

constexpr int kThreads = 128;

template <class T>
__global__ void __launch_bounds__(kThreads)
    finalize_channels(const __grid_constant__ NormTask task, NormSource source) {
    const int64_t channels = task.layout.channels, c = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (c >= channels) return;
    switch (source) {
        case NormSource::statistics: break;
        case NormSource::running: use_running(task, c); break;
        case NormSource::gathered: gather_stats(task, c); break;
        case NormSource::nothing:
            task.sums[c] = task.sums[channels + c] = 0;
            write_parameter_gradients(task, c);
            break;
    }
    if (task.coefficients != nullptr) store_coefficients<T>(task, c);
}

template <template <class> class Of>
void join(const Stream& stream, const NormTask& task) {
    const auto kernel = task.input.type == DType::f64 ? join_chunks<double, Of> : join_chunks<float, Of>;
    const int64_t blocks = (task.layout.channels + kWarps - 1) / kWarps;
    launch(stream, "join of chunks", kernel, {blocks, kWarps * kLanes}, task);
}

}  // namespace

void norm_moments(const Stream& stream, const NormTask& task) {
    (task.layout.planes ? gather_plane_moments : gather_column_moments)(stream, task);
    join<OfMoments>(stream, task);
}

void norm_sums(const Stream& stream, const NormTask& task) {
    (task.layout.planes ? gather_plane_sums : gather_column_sums)(stream, task);
    join<OfSums>(stream, task);
}

void norm_finalize(const Stream& stream, const NormTask& task, NormSource source) {
    const auto kernel = task.input.type == DType::f64 ? finalize_channels<double> : finalize_channels<float>;
    launch(stream, "statistics", kernel, {(task.layout.channels + kThreads - 1) / kThreads, kThreads}, task, source);
}

}  // namespace fastopt::cuda
