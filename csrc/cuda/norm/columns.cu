// Moments and sums of columns: a block takes 32 columns of a chunk, or 64 of a half type, a warp takes a flush block, a
// thread one column or two.
//
// Bytes per element as in planes.cu.
#include <type_traits>

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

// `wide`: columns of a thread.
__host__ __device__ __forceinline__ int64_t blocks_across(int64_t columns, int wide) {
    return (columns + kLanes * wide - 1) / (kLanes * wide);
}

__host__ __device__ __forceinline__ int64_t blocks_of_sample(const NormLayout& l, int wide) {
    return l.chunks * blocks_across(l.columns, wide) + blocks_across(l.rest, wide);
}

// `kSamples`: each sample has statistics of its own. The kernels for a single one need fewer registers.
template <bool kSamples, int kWide>
__device__ __forceinline__ Span span_of_block(const NormTask& task, const NormLayout& l) {
    const int64_t sample = kSamples ? blockIdx.x / blocks_of_sample(l, kWide) : 0;
    const int64_t block = kSamples ? blockIdx.x - sample * blocks_of_sample(l, kWide) : blockIdx.x;
    const int64_t across = blocks_across(l.columns, kWide), chunk = block / across;
    const int64_t column = ((block - chunk * across) * kLanes + int(threadIdx.x) % kLanes) * kWide;
    double* const partials = task.partials + sample * task.sample_partials + 2 * chunk * l.columns;
    if (chunk == l.chunks) return {partials, sample, l.rows, l.rows + 1, l.rest, column, true};
    const int64_t first = chunk * l.chunk, end = first + l.chunk;
    return {partials, sample, first, end < l.rows ? end : l.rows, l.columns, column, false};
}

// The elements of a thread's columns in one row, of which two are loaded at once.
template <class Format, int kWide>
struct Columns {
    using Storage = typename Format::Storage;
    using Memory = std::conditional_t<kWide == 1, Storage, uint32_t>;
    static_assert(sizeof(Memory) == kWide * sizeof(Storage));

    Memory memory;

    __device__ __forceinline__ static Columns load(const Storage* from, int64_t at) {
        return {*reinterpret_cast<const Memory*>(from + at)};
    }
    __device__ __forceinline__ typename Format::Compute operator[](int i) const {
        if constexpr (kWide == 1)
            return Format::load(memory);
        else
            return Format::load(static_cast<Storage>(memory >> (16 * i)));
    }
};

template <int kWide>
struct ColumnSums {
    PartialSums of[kWide];
};

// Calls `sum(first row, rows)` for each flush block, and joins the results of a thread's columns.
template <class Join, int kWide, class Sum>
__device__ __forceinline__ void gather_span(const Span& span, Sum sum) {
    FASTOPT_SHARED(ColumnSums<kWide>[kMostWarps][kLanes], parts);
    FASTOPT_SHARED(Share[kMostWarps], shares);
    const int lane = int(threadIdx.x) % kLanes, warp = int(threadIdx.x) / kLanes, warps = int(blockDim.x) / kLanes;
    ColumnSums<kWide> all{};
    for (int64_t first = span.first_row; first < span.end_row; first += warps * kFlushRows) {
        const int64_t row = first + warp * kFlushRows, left = span.end_row - row;
        const int64_t rows = left < kFlushRows ? left : kFlushRows;
        if (rows > 0 && span.column < span.columns) parts[warp][lane] = sum(row, int(rows));
        if (rows > 0 && lane == 0) shares[warp] = Join::share_of(double(row - span.first_row), double(rows));
        __syncthreads();
        if (warp == 0 && span.column < span.columns)
            for (int k = 0; k < warps && first + k * kFlushRows < span.end_row; ++k)
                for (int i = 0; i < kWide; ++i) Join::join(all.of[i], parts[k][lane].of[i], shares[k]);
        __syncthreads();
    }
    if (warp != 0 || span.column >= span.columns) return;
    for (int i = 0; i < kWide; ++i) {
        span.partials[span.column + i] = all.of[i].first;
        span.partials[span.columns + span.column + i] = all.of[i].second;
    }
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

template <class Format, bool kSamples, int kWide>
__global__ void __launch_bounds__(kMostWarps* kLanes, kWide == 2 && !kSamples ? 4 : 2)
    column_moments(const __grid_constant__ NormTask task) {
    using T = typename Format::Compute;
    using Own = Columns<Format, kWide>;
    const auto* const input = static_cast<const typename Format::Storage*>(task.input.data);
    const NormLayout& l = task.sets;
    const int64_t stride = l.columns;
    const Span span = span_of_block<kSamples, kWide>(task, l);
    const auto load = [&](int64_t at) { return Own::load(input, at); };
    gather_span<JoinMoments, kWide>(span, [&](int64_t row, int rows) {
        const int64_t at = span.sample * l.total + row * stride + span.column;
        const Own first = load(at);
        ColumnSums<kWide> found;
        if (span.is_rest) {
            for (int i = 0; i < kWide; ++i) found.of[i] = {double(first[i]), 0};
            return found;
        }
        const int some = rows < int(kShiftRows) ? rows : int(kShiftRows);
        T rough[kWide] = {}, shift[kWide], sum[kWide] = {}, squares[kWide] = {};
        for_column<int(kShiftRows) - 1>(at + stride, some - 1, stride, load, [&](const Own& x, int64_t) {
            for (int i = 0; i < kWide; ++i) rough[i] += x[i] - first[i];
        });
        for (int i = 0; i < kWide; ++i) shift[i] = shift_from(first[i], double(rough[i]), 1.0 / some);
        for_column<16>(at, rows, stride, load, [&](const Own& x, int64_t) {
            for (int i = 0; i < kWide; ++i) {
                const T delta = x[i] - shift[i];
                sum[i] += delta;
                squares[i] += delta * delta;
            }
        });
        for (int i = 0; i < kWide; ++i) {
            const Moments own = moments_from(double(shift[i]), double(sum[i]), double(squares[i]), 1 / double(rows));
            found.of[i] = {own.mean, own.squares};
        }
        return found;
    });
}

// Blocks of a multiprocessor, at least: as many as have registers for all operands.
template <class Format, class Activation, bool kSamples, int kWide>
constexpr int kBlocksOfSums = sizeof(typename Format::Compute) > sizeof(float) || kPasses<Activation> ? 2
                              : kWide == 2 && !kSamples                                               ? 3
                              : Activation::costly || kSamples                                        ? 2
                                                                                                      : 4;

template <class Format, class Activation, bool kSamples, int kWide>
__global__ void __launch_bounds__(kMostWarps* kLanes, kBlocksOfSums<Format, Activation, kSamples, kWide>)
    column_sums(const __grid_constant__ NormTask task) {
    using T = typename Format::Compute;
    using Storage = typename Format::Storage;
    using Own = Columns<Format, kWide>;
    struct Loaded {
        Own x, grad, residual;
    };
    const NormLayout& l = task.layout;
    const auto* const input = static_cast<const Storage*>(task.input.data);
    const auto* const grads = static_cast<const Storage*>(task.grad.data);
    const auto* const residuals = static_cast<const Storage*>(task.residual.data);
    auto* const kept = static_cast<Storage*>(task.kept.data);
    const bool adds = !kPasses<Activation> && residuals != nullptr, keeps = kept != nullptr;
    const Span span = span_of_block<kSamples, kWide>(task, l);
    Coefficients<T> of[kWide];
    for (int i = 0; i < kWide; ++i)
        of[i] = coefficients_of<T>(
            task, channel_at(task, (span.column + i) / l.inner % l.channels + span.sample * l.channels));
    const T slope = T(task.negative_slope);
    gather_span<JoinSums, kWide>(span, [&](int64_t row, int rows) {
        T sum[kWide] = {}, products[kWide] = {};
        for_column<4>(
            span.sample * l.total + row * l.columns + span.column, rows, l.columns,
            [&](int64_t at) -> Loaded {
                return {Own::load(input, at), Own::load(grads, at), adds ? Own::load(residuals, at) : Own{}};
            },
            [&](const Loaded& loaded, int64_t at) {
                for (int i = 0; i < kWide; ++i) {
                    const T x = loaded.x[i];
                    T grad = loaded.grad[i];
                    if constexpr (!kPasses<Activation>) {
                        grad = Activation::gradient(z_of(x, of[i], adds, loaded.residual[i]), grad, slope);
                        if (keeps) kept[at + i] = Format::store(grad);
                    }
                    sum[i] += grad;
                    products[i] += grad * (x - of[i].center);
                }
            });
        ColumnSums<kWide> found;
        for (int i = 0; i < kWide; ++i) found.of[i] = {double(sum[i]), double(products[i])};
        return found;
    });
}

using Kernel = void (*)(NormTask);

// By DType, and by columns of a thread less one; for sums, one row per activation. Of one or more samples.
template <bool kSamples>
constexpr Kernel moment_kernels[4][2] = {
    {column_moments<Plain<float>, kSamples, 1>},
    {column_moments<Plain<double>, kSamples, 1>},
    {column_moments<Narrow<BFloat16>, kSamples, 1>, column_moments<Narrow<BFloat16>, kSamples, 2>},
    {column_moments<Narrow<Float16>, kSamples, 1>, column_moments<Narrow<Float16>, kSamples, 2>}};

#define FASTOPT_SUM_KERNELS(name, Activation)                                                                          \
    {{column_sums<Plain<float>, Activation, kSamples, 1>},                                                             \
     {column_sums<Plain<double>, Activation, kSamples, 1>},                                                            \
     {column_sums<Narrow<BFloat16>, Activation, kSamples, 1>, column_sums<Narrow<BFloat16>, Activation, kSamples, 2>}, \
     {column_sums<Narrow<Float16>, Activation, kSamples, 1>, column_sums<Narrow<Float16>, Activation, kSamples, 2>}},
template <bool kSamples>
constexpr Kernel sum_kernels[][4][2] = {FASTOPT_ACTIVATIONS(FASTOPT_SUM_KERNELS)};

// Two columns where pairs of a half type are aligned in every row.
template <class... Arrays>
void start(const Stream& stream, const char* name, const Kernel (&kernels)[4][2], const NormTask& task,
           const NormLayout& l, const Arrays&... operands) {
    const DType type = task.input.type;
    const bool half = type == DType::bf16 || type == DType::f16;
    const bool even = l.columns % 2 == 0 && l.rest % 2 == 0 && (task.samples == 1 || l.total % 2 == 0);
    const int wide = half && even && (is_aligned(operands.data) && ...) ? 2 : 1;
    const int64_t rows = l.chunk < l.rows ? l.chunk : l.rows, flushes = (rows + kFlushRows - 1) / kFlushRows;
    const int warps = int(flushes < 1 ? 1 : flushes < kMostWarps ? flushes : kMostWarps);
    const Kernel kernel = kernels[int(type)][wide - 1];
    launch(stream, name, kernel, {task.samples * blocks_of_sample(l, wide), warps * kLanes}, task);
}

}  // namespace

void gather_column_moments(const Stream& stream, const NormTask& task) {
    const auto& kernels = task.samples > 1 ? moment_kernels<true> : moment_kernels<false>;
    start(stream, "moments", kernels, task, task.sets, task.input);
}

void gather_column_sums(const Stream& stream, const NormTask& task) {
    const auto& kernels = (task.samples > 1 ? sum_kernels<true> : sum_kernels<false>)[task.activation];
    start(stream, "sums of gradients", kernels, task, task.layout, task.input, task.grad, task.residual);
}

}  // namespace fastopt::cuda
