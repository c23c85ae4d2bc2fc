// Moments and sums of columns: a block takes 32 columns of a chunk, a warp takes a flush block, a thread a column.
//
// Bytes per element as in planes.cu.
#include "cuda/norm/norm.h"

namespace fastopt::cuda {
namespace {

constexpr int kMostWarps = 8;

// A block's part of a sample: some columns of a chunk of rows. The elements after the last full row form another chunk,
// of one shorter row.
struct Span {
    double* partials;
    int64_t sample, first_row, end_row, columns, column;
    bool is_rest;
};

__host__ __device__ __forceinline__ int64_t blocks_across(int64_t columns) { return (columns + kLanes - 1) / kLanes; }

__host__ __device__ __forceinline__ int64_t blocks_of_sample(const NormLayout& l) {
    return l.chunks * blocks_across(l.columns) + blocks_across(l.rest);
}

// `kSamples`: each sample has statistics of its own. The kernels for a single one need fewer registers.
template <bool kSamples>
__device__ __forceinline__ Span span_of_block(const NormTask& task, const NormLayout& l) {
    const int64_t sample = kSamples ? blockIdx.x / blocks_of_sample(l) : 0;
    const int64_t block = kSamples ? blockIdx.x - sample * blocks_of_sample(l) : blockIdx.x;
    const int64_t across = blocks_across(l.columns), chunk = block / across;
    const int64_t column = (block - chunk * across) * kLanes + int(threadIdx.x) % kLanes;
    double* const partials = task.partials + sample * task.sample_partials + 2 * chunk * l.columns;
    if (chunk == l.chunks) return {partials, sample, l.rows, l.rows + 1, l.rest, column, true};
    const int64_t first = chunk * l.chunk, end = first + l.chunk;
    return {partials, sample, first, end < l.rows ? end : l.rows, l.columns, column, false};
}

// Calls `sum(first row, rows)` for each flush block, and joins the results of a thread's column.
template <class Join, class Sum>
__device__ __forceinline__ void gather_span(const Span& span, Sum sum) {
    FASTOPT_SHARED(PartialSums[kMostWarps][kLanes], parts);
    FASTOPT_SHARED(Share[kMostWarps], shares);
    const int lane = int(threadIdx.x) % kLanes, warp = int(threadIdx.x) / kLanes, warps = int(blockDim.x) / kLanes;
    PartialSums all{};
    for (int64_t first = span.first_row; first < span.end_row; first += warps * kFlushRows) {
        const int64_t row = first + warp * kFlushRows, left = span.end_row - row;
        const int64_t rows = left < kFlushRows ? left : kFlushRows;
        if (rows > 0 && span.column < span.columns) parts[warp][lane] = sum(row, int(rows));
        if (rows > 0 && lane == 0) shares[warp] = Join::share_of(double(row - span.first_row), double(rows));
        __syncthreads();
        if (warp == 0 && span.column < span.columns)
            for (int k = 0; k < warps && first + k * kFlushRows < span.end_row; ++k)
                Join::join(all, parts[k][lane], shares[k]);
        __syncthreads();
    }
    if (warp != 0 || span.column >= span.columns) return;
    span.partials[span.column] = all.first;
    span.partials[span.columns + span.column] = all.second;
}

// Calls add(load(place), place) for `rows` elements of a column, in order; `kLoads` loads are in flight at a time.
template <int kLoads, class Load, class Add>
__device__ __forceinline__ void for_column(int64_t at, int rows, int64_t stride, Load load, Add add) {
    int first = 0;
    for (; first + kLoads <= rows; first += kLoads) {
        decltype(load(int64_t{})) loaded[kLoads];
        for (int k = 0; k < kLoads; ++k) loaded[k] = load(at + (first + k) * stride);
        for (int k = 0; k < kLoads; ++k) add(loaded[k], at + (first + k) * stride);
    }
    for (; first < rows; ++first) add(load(at + first * stride), at + first * stride);
}

template <class Format, bool kSamples>
__global__ void __launch_bounds__(kMostWarps* kLanes, 2) column_moments(const __grid_constant__ NormTask task) {
    using T = typename Format::Compute;
    const auto* const input = static_cast<const typename Format::Storage*>(task.input.data);
    const NormLayout& l = task.sets;
    const int64_t stride = l.columns;
    const Span span = span_of_block<kSamples>(task, l);
    const auto load = [&](int64_t at) { return input[at]; };
    gather_span<JoinMoments>(span, [&](int64_t row, int rows) -> PartialSums {
        const int64_t at = span.sample * l.total + row * stride + span.column;
        if (span.is_rest) return {double(Format::load(load(at))), 0};
        const int some = rows < int(kShiftRows) ? rows : int(kShiftRows);
        const T first = Format::load(load(at));
        T rough{}, sum{}, squares{};
        for_column<int(kShiftRows) - 1>(at + stride, some - 1, stride, load,
                                        [&](typename Format::Storage x, int64_t) { rough += Format::load(x) - first; });
        const T shift = shift_from(first, double(rough), 1.0 / some);
        for_column<16>(at, rows, stride, load, [&](typename Format::Storage x, int64_t) {
            const T delta = Format::load(x) - shift;
            sum += delta;
            squares += delta * delta;
        });
        const Moments found = moments_from(double(shift), double(sum), double(squares), 1 / double(rows));
        return {found.mean, found.squares};
    });
}

// Blocks of a multiprocessor, at least: 4 where their registers suffice for all operands.
template <class Format, class Activation, bool kSamples>
constexpr int kBlocksOfSums =
    sizeof(typename Format::Compute) == sizeof(float) && !Activation::costly && !kPasses<Activation> && !kSamples ? 4
                                                                                                                  : 2;

template <class Format, class Activation, bool kSamples>
__global__ void __launch_bounds__(kMostWarps* kLanes, kBlocksOfSums<Format, Activation, kSamples>)
    column_sums(const __grid_constant__ NormTask task) {
    using T = typename Format::Compute;
    using Storage = typename Format::Storage;
    struct Loaded {
        Storage x, grad, residual;
    };
    const NormLayout& l = task.layout;
    const auto* const input = static_cast<const Storage*>(task.input.data);
    const auto* const grads = static_cast<const Storage*>(task.grad.data);
    const auto* const residuals = static_cast<const Storage*>(task.residual.data);
    auto* const kept = static_cast<Storage*>(task.kept.data);
    const bool adds = !kPasses<Activation> && residuals != nullptr, keeps = kept != nullptr;
    const Span span = span_of_block<kSamples>(task, l);
    const Coefficients<T> of =
        coefficients_of<T>(task, channel_at(task, span.column / l.inner % l.channels + span.sample * l.channels));
    const T slope = T(task.negative_slope);
    gather_span<JoinSums>(span, [&](int64_t row, int rows) -> PartialSums {
        T sum{}, products{};
        for_column<4>(
            span.sample * l.total + row * l.columns + span.column, rows, l.columns,
            [&](int64_t at) -> Loaded { return {input[at], grads[at], adds ? residuals[at] : Storage{}}; },
            [&](const Loaded& loaded, int64_t at) {
                const T x = Format::load(loaded.x);
                T grad = Format::load(loaded.grad);
                if constexpr (!kPasses<Activation>) {
                    grad = Activation::gradient(z_of(x, of, adds, Format::load(loaded.residual)), grad, slope);
                    if (keeps) kept[at] = Format::store(grad);
                }
                sum += grad;
                products += grad * (x - of.center);
            });
        return {double(sum), double(products)};
    });
}

using Kernel = void (*)(NormTask);

// By DType; for sums, one row per activation. Of one or more samples.
template <bool kSamples>
constexpr Kernel moment_kernels[4] = {column_moments<Plain<float>, kSamples>, column_moments<Plain<double>, kSamples>,
                                      column_moments<Narrow<BFloat16>, kSamples>,
                                      column_moments<Narrow<Float16>, kSamples>};

#define FASTOPT_SUM_KERNELS(name, Activation)                                                           \
    {column_sums<Plain<float>, Activation, kSamples>, column_sums<Plain<double>, Activation, kSamples>, \
     column_sums<Narrow<BFloat16>, Activation, kSamples>, column_sums<Narrow<Float16>, Activation, kSamples>},
template <bool kSamples>
constexpr Kernel sum_kernels[][4] = {FASTOPT_ACTIVATIONS(FASTOPT_SUM_KERNELS)};

void start(const Stream& stream, const char* name, Kernel kernel, const NormTask& task, const NormLayout& l) {
    const int64_t rows = l.chunk < l.rows ? l.chunk : l.rows, flushes = (rows + kFlushRows - 1) / kFlushRows;
    const int warps = int(flushes < 1 ? 1 : flushes < kMostWarps ? flushes : kMostWarps);
    launch(stream, name, kernel, {task.samples * blocks_of_sample(l), warps * kLanes}, task);
}

}  // namespace

void gather_column_moments(const Stream& stream, const NormTask& task) {
    const auto& kernels = task.samples > 1 ? moment_kernels<true> : moment_kernels<false>;
    start(stream, "moments", kernels[int(task.input.type)], task, task.sets);
}

void gather_column_sums(const Stream& stream, const NormTask& task) {
    const auto& kernels = (task.samples > 1 ? sum_kernels<true> : sum_kernels<false>)[task.activation];
    start(stream, "sums of gradients", kernels[int(task.input.type)], task, task.layout);
}

}  // namespace fastopt::cuda
