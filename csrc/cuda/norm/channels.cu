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

// `l` sees the memory by sets or by channels; `c` is one of those of all samples.
__device__ __forceinline__ Partial partial_of(const NormTask& task, const NormLayout& l, int64_t c, int64_t index) {
    if (l.planes) {
        const double* const pair = task.partials + 2 * (c * l.chunks + index);
        const PieceRange pieces = pieces_of(l, index);
        return {{pair[0], pair[1]}, double(elements_before(l, pieces.begin)), double(elements_of(l, pieces))};
    }
    // A channel has `inner` adjacent columns in each period; after the last chunk there is a single row.
    const int64_t sample = task.samples > 1 ? c / l.channels : 0, own = c - sample * l.channels;
    const int64_t in_row = l.columns / l.channels, full = l.chunks * in_row;
    const bool is_rest = index >= full;
    const int64_t chunk = is_rest ? l.chunks : index / in_row, k = index - chunk * in_row;
    const int64_t columns = is_rest ? l.rest : l.columns;
    const int64_t column = k / l.inner * l.channels * l.inner + own * l.inner + k % l.inner;
    const double* const firsts = task.partials + sample * task.sample_partials + 2 * chunk * l.columns + column;
    const int64_t begin = chunk * l.chunk, left = l.rows - begin;
    const int64_t rows = is_rest ? 1 : left < l.chunk ? left : l.chunk, before = is_rest ? l.rows : begin;
    return {{firsts[0], firsts[columns]}, double(before * in_row + rows * k), double(rows)};
}

// Results that lanes hand over at a time: a join waits for the one before, but not for them.
constexpr int kHanded = 4;
static_assert(kLanes % kHanded == 0);

// All lanes return the result.
template <class Join>
__device__ __forceinline__ PartialSums join_partials(const NormTask& task, const NormLayout& l, int64_t c, int lane) {
    const int64_t n = partials_of_channel(l);
    const auto fetch = [&](int64_t index) { return index < n ? partial_of(task, l, c, index) : Partial{}; };
    PartialSums all{};
    Partial next = fetch(lane);
    for (int64_t first = 0; first < n; first += kLanes) {
        const PartialSums own = next.part;
        const Share of = Join::share_of(next.before, next.count);
        next = fetch(first + kLanes + lane);
        const int some = int(n - first < kLanes ? n - first : kLanes);
        for (int k = 0; k < some; k += kHanded) {
            PartialSums parts[kHanded];
            Share shares[kHanded];
            FASTOPT_UNROLL
            for (int i = 0; i < kHanded; ++i) {
                parts[i] = {__shfl_sync(~0u, own.first, k + i), __shfl_sync(~0u, own.second, k + i)};
                shares[i] = {__shfl_sync(~0u, of.fraction, k + i), __shfl_sync(~0u, of.weight, k + i)};
            }
            FASTOPT_UNROLL
            for (int i = 0; i < kHanded; ++i)
                if (k + i < some) Join::join(all, parts[i], shares[i]);
        }
    }
    return all;
}

// Both store coefficients for the element kernels, in the compute type: [5][channels].

template <class T>
__device__ __forceinline__ void store_coefficients(const NormTask& task, int64_t c) {
    const int64_t channels = task.channel_count;
    T* const all = static_cast<T*>(task.coefficients) + c;
    const Coefficients<T> of = coefficients_of<T>(task, channel_at(task, c));
    all[0] = of.center;
    all[channels] = of.scale;
    all[2 * channels] = of.offset;
}

template <class T>
__device__ __forceinline__ void store_projection(const NormTask& task, int64_t c, Projection<T> less) {
    T* const all = static_cast<T*>(task.coefficients) + 3 * task.channel_count + c;
    all[0] = less.mean;
    all[task.channel_count] = less.slope;
}

// Whether a kernel that knows one channel's sums can also compute what all sums of a set, or of a parameter, are for.
__device__ __forceinline__ bool is_set(const NormTask& task) { return task.group == 1; }
__device__ __forceinline__ bool is_parameter(const NormTask& task) { return task.channel_count == task.parameters; }

constexpr int kWarps = 4;

__device__ __forceinline__ int64_t index_of_warp() { return int64_t(blockIdx.x) * kWarps + threadIdx.x / kLanes; }

// A warp has a set, and then writes the coefficients of its channels.
template <class T>
__global__ void __launch_bounds__(kWarps* kLanes) join_moments(const __grid_constant__ NormTask task) {
    const int lane = int(threadIdx.x) % kLanes;
    const int64_t set = index_of_warp();
    if (set >= task.set_count) return;
    const PartialSums all = join_partials<JoinMoments>(task, task.sets, set, lane);
    if (lane == 0) {
        task.moments[set] = all.first;
        task.moments[task.set_count + set] = all.second;
        if (task.statistics != nullptr) finalize_statistics(task, set);
    }
    if (task.coefficients == nullptr) return;
    __syncwarp();
    for (int64_t k = lane; k < task.group; k += kLanes) store_coefficients<T>(task, set * task.group + k);
}

// A warp has a channel.
template <class T>
__global__ void __launch_bounds__(kWarps* kLanes) join_sums(const __grid_constant__ NormTask task) {
    const int lane = int(threadIdx.x) % kLanes;
    const int64_t c = index_of_warp();
    if (c >= task.channel_count) return;
    const PartialSums all = join_partials<JoinSums>(task, task.layout, c, lane);
    if (lane != 0) return;
    task.sums[c] = all.first;
    task.sums[task.channel_count + c] = all.second;
    finalize_sums<T>(task, channel_at(task, c));
    if (is_parameter(task)) write_parameter_gradients(task, c);
    if (task.coefficients == nullptr || !is_set(task)) return;
    store_coefficients<T>(task, c);
    store_projection(task, c, projection_of<T>(task, c));
}

// A warp has a set, whose channels' sums its lanes load; they are added in the order of channels.
template <class T>
__global__ void __launch_bounds__(kWarps* kLanes) project_sets(const __grid_constant__ NormTask task) {
    const int lane = int(threadIdx.x) % kLanes;
    const int64_t set = index_of_warp();
    if (set >= task.set_count) return;
    double sum = 0, products = 0;
    for (int64_t first = 0; first < task.group; first += kLanes) {
        const int some = int(task.group - first < kLanes ? task.group - first : kLanes);
        const int64_t c = set * task.group + first + lane;
        double own = 0, own_products = 0;
        if (lane < some) {
            const double weight = weight_of(task, channel_at(task, c));
            own = weight * task.sums[c];
            own_products = weight * task.sums[task.channel_count + c];
        }
        for (int k = 0; k < some; ++k) {
            sum += __shfl_sync(~0u, own, k);
            products += __shfl_sync(~0u, own_products, k);
        }
    }
    const Projection<T> less =
        projection<T>(mean_of(task, set), inverse_std_of(task, set), sum, products, count_of(task, set));
    for (int64_t k = lane; k < task.group; k += kLanes) {
        store_coefficients<T>(task, set * task.group + k);
        store_projection(task, set * task.group + k, less);
    }
}

constexpr int kThreads = 128;

// A thread has a parameter, which all samples share.
__global__ void __launch_bounds__(kThreads) join_samples(const __grid_constant__ NormTask task) {
    const int64_t parameter = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (parameter < task.parameters) write_parameter_gradients(task, parameter);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    finalize_channels(const __grid_constant__ NormTask task, NormSource source) {
    const int64_t channels = task.parameters, c = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (c >= channels) return;
    switch (source) {
        case NormSource::statistics: break;
        case NormSource::running: use_running(task, c); break;
        case NormSource::gathered: gather_stats(task, c); break;
        case NormSource::nothing:
            for (int64_t k = c; k < task.channel_count; k += channels)
                task.sums[k] = task.sums[task.channel_count + k] = 0;
            write_parameter_gradients(task, c);
            break;
    }
    if (task.coefficients == nullptr) return;
    store_coefficients<T>(task, c);
    store_projection(task, c, projection_of<T>(task, c));
}

using Kernel = void (*)(NormTask);

// `kernels`: for float32 and float64.
void launch_warps(const Stream& stream, const char* name, const Kernel (&kernels)[2], int64_t count,
                  const NormTask& task) {
    const int64_t blocks = (count + kWarps - 1) / kWarps;
    launch(stream, name, kernels[task.input.type == DType::f64], {blocks, kWarps * kLanes}, task);
}

}  // namespace

void norm_moments(const Stream& stream, const NormTask& task) {
    (task.sets.planes ? gather_plane_moments : gather_column_moments)(stream, task);
    launch_warps(stream, "join of chunks", {join_moments<float>, join_moments<double>}, task.set_count, task);
}

void norm_sums(const Stream& stream, const NormTask& task) {
    (task.layout.planes ? gather_plane_sums : gather_column_sums)(stream, task);
    launch_warps(stream, "join of chunks", {join_sums<float>, join_sums<double>}, task.channel_count, task);
    if (task.group > 1 && task.coefficients != nullptr)
        launch_warps(stream, "projection", {project_sets<float>, project_sets<double>}, task.set_count, task);
    if (task.channel_count > task.parameters && (task.grad_weight.data != nullptr || task.grad_bias.data != nullptr))
        launch(stream, "join of samples", join_samples, {(task.parameters + kThreads - 1) / kThreads, kThreads}, task);
}

void norm_finalize(const Stream& stream, const NormTask& task, NormSource source) {
    const auto kernel = task.input.type == DType::f64 ? finalize_channels<double> : finalize_channels<float>;
    launch(stream, "statistics", kernel, {(task.parameters + kThreads - 1) / kThreads, kThreads}, task, source);
}

}  // namespace fastopt::cuda
