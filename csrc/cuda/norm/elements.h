// The element kernels of batch normalization: 16 bytes of each operand at a time, wherever segments begin and end; one
// element at a time where memory is not aligned.
//
// Columns: a thread stays in its columns and keeps their coefficients in registers. Planes: a thread looks up the
// channels of each vector, two at most.
#pragma once

#include "cuda/divisor.h"
#include "cuda/norm/access.h"
#include "cuda/norm/norm.h"

namespace fastopt::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSteps = 8;      // vectors per thread in planes
constexpr int kRounds = 8;     // vectors per thread in columns, at most
constexpr int kBlocks = 1024;  // enough to keep a GPU busy

// A channel's coefficients; gradients also need a projection.
template <class T>
struct Numbers {
    Coefficients<T> of;
    Projection<T> less;
};

template <bool kProjects, class T>
__device__ __forceinline__ Numbers<T> numbers_of(const NormTask& task, int64_t channel) {
    const int64_t channels = task.channel_count;
    const T* const all = static_cast<const T*>(task.coefficients) + channel;
    Numbers<T> numbers{{all[0], all[channels], all[2 * channels]}, {}};
    if constexpr (kProjects) numbers.less = {all[3 * channels], all[4 * channels]};
    return numbers;
}

struct GridElements {
    NormTask task;
    Divisor inner, channels;
    SmallDivisor small_inner, small_channels;
    int64_t vectors, per_block;  // planes: the number of vectors, and per block
    int64_t cycle, step;         // columns: vectors after which channels repeat; the distance to a thread's next vector
    int parts, rounds;           // columns: blocks per cycle; vectors per thread
    int64_t blocks;              // columns: per sample
};

// The work on elements, `Work`, loads Operands<Access>, and turns them into results in
// run<Access>(task, at, operands, numbers), where numbers(k) are those of the k-th element.

// One element that does not belong to a full vector.
template <class Work, class T>
__device__ __forceinline__ void run_single(const GridElements& elements, int64_t at) {
    const int64_t segment = elements.inner.quotient(at);
    const int64_t channel = segment - elements.channels.quotient(segment) * elements.channels.number();
    const auto own = numbers_of<Work::projects, T>(elements.task, channel);
    typename Work::template Operands<Singles<T>> operands;
    operands.load(elements.task, at);
    Work::template run<Singles<T>>(elements.task, at, operands, [&](int) { return own; });
}

template <class Work, class Access>
__device__ __forceinline__ void run_rest(const GridElements& elements) {
    if constexpr (Access::width > 1) {
        const int64_t at = elements.vectors * Access::width + threadIdx.x;
        if (blockIdx.x == gridDim.x - 1 && at < elements.task.layout.total)
            run_single<Work, typename Access::Compute>(elements, at);
    }
}

// Where elements of planes lie, seen from the first one of a block: 64 bits are divided once per block, and then 32.
class PlaceInPlanes {
   public:
    __device__ __forceinline__ PlaceInPlanes(const GridElements& elements, int64_t first) : elements_(elements) {
        channel_ = elements.inner.split(first);
        elements.channels.split(channel_);
        segment_left_ = at_most(elements.inner.number() - first);
        channels_left_ = at_most(elements.channels.number() - channel_);
    }

    // The channel of the element `offset` after the first one, and how many elements from it on belong to that channel,
    // or at least as many as there are in a block.
    __device__ __forceinline__ int64_t channel(uint32_t offset, uint32_t& left) const {
        uint32_t segments = 0;
        left = segment_left_ - offset;
        if (offset >= segment_left_) {
            const uint32_t after = offset - segment_left_, whole = elements_.small_inner.quotient(after);
            left = (whole + 1) * elements_.small_inner.number() - after;
            segments = whole + 1;
        }
        if (segments < channels_left_) return channel_ + segments;
        const SmallDivisor& channels = elements_.small_channels;
        const uint32_t after = segments - channels_left_;
        return after - channels.quotient(after) * channels.number();
    }

   private:
    __device__ __forceinline__ static uint32_t at_most(int64_t n) {
        return uint32_t(n < SmallDivisor::kMost ? n : SmallDivisor::kMost);
    }

    const GridElements& elements_;
    int64_t channel_;
    uint32_t segment_left_, channels_left_;
};

// `kWhole`: all elements of a vector belong to one channel; otherwise to two at most.
template <class Work, class Access, bool kWhole>
__global__ void __launch_bounds__(kThreads) run_planes(const __grid_constant__ GridElements elements) {
    using T = typename Access::Compute;
    constexpr int kWidth = Access::width, kAtOnce = Work::vectors;
    const NormTask& task = elements.task;
    const int64_t begin = int64_t(blockIdx.x) * elements.per_block, most = elements.vectors - begin;
    const int vectors = int(most < elements.per_block ? most : elements.per_block);
    const PlaceInPlanes place(elements, begin * kWidth);
    for (int first = int(threadIdx.x); first < vectors; first += kAtOnce * kThreads) {
        typename Work::template Operands<Access> operands[kAtOnce];
        Numbers<T> own[kAtOnce], next[kAtOnce];
        uint32_t left[kAtOnce];  // elements of the first channel
        FASTOPT_UNROLL
        for (int i = 0; i < kAtOnce; ++i) {
            const int v = first + i * kThreads, some = v < vectors ? v : first;
            operands[i].load(task, (begin + some) * kWidth);
            int64_t channel = place.channel(uint32_t(some * kWidth), left[i]);
            own[i] = numbers_of<Work::projects, T>(task, channel);
            if (kWhole) continue;
            if (left[i] < uint32_t(kWidth) && ++channel == task.layout.channels) channel = 0;
            next[i] = numbers_of<Work::projects, T>(task, channel);
        }
        end_loads();
        FASTOPT_UNROLL
        for (int i = 0; i < kAtOnce; ++i) {
            const int v = first + i * kThreads;
            if (v < vectors)
                Work::template run<Access>(task, (begin + v) * kWidth, operands[i],
                                           [&](int k) { return kWhole || uint32_t(k) < left[i] ? own[i] : next[i]; });
        }
    }
    run_rest<Work, Access>(elements);
}

// `kSamples`: each sample has coefficients of its own. The kernels for a single one need fewer registers.
template <class Work, class Access, bool kSamples>
__global__ void __launch_bounds__(kThreads, kSamples                              ? 2
                                            : Access::width == 4 && !Work::costly ? 5
                                                                                  : 1)
    run_columns(const __grid_constant__ GridElements elements) {
    using T = typename Access::Compute;
    constexpr int kAtOnce = Work::vectors;
    const NormLayout& l = elements.task.layout;
    const int64_t sample = kSamples ? blockIdx.x / elements.blocks : 0;
    const unsigned block = kSamples ? unsigned(blockIdx.x - sample * elements.blocks) : blockIdx.x;
    const int64_t turn = block / elements.parts, part = block % elements.parts;
    const int64_t place = part * blockDim.x + threadIdx.x;
    const int64_t first = turn * elements.rounds * elements.step + place;
    if (place < elements.step && first < elements.vectors) {
        // Several cycles fit into a block, so that 32 bits suffice to divide.
        const int64_t in_cycle = place < elements.cycle ? place : unsigned(place) % unsigned(elements.cycle);
        Numbers<T> numbers[Access::width];
        for (int k = 0; k < Access::width; ++k) {
            int64_t channel = elements.inner.quotient(in_cycle * Access::width + k);
            elements.channels.split(channel);
            numbers[k] =
                numbers_of<Work::projects, T>(elements.task, kSamples ? channel + sample * l.channels : channel);
        }
        const int64_t from = kSamples ? sample * elements.vectors : 0;
        int64_t v = first;
        for (int r = 0; r < elements.rounds && v < elements.vectors; r += kAtOnce) {
            typename Work::template Operands<Access> operands[kAtOnce];
            int64_t at[kAtOnce];
            bool exists[kAtOnce];
            FASTOPT_UNROLL
            for (int i = 0; i < kAtOnce; ++i, v += elements.step) {
                exists[i] = i == 0 || (r + i < elements.rounds && v < elements.vectors);
                at[i] = exists[i] ? (from + v) * Access::width : at[0];
                operands[i].load(elements.task, at[i]);
            }
            end_loads();
            FASTOPT_UNROLL
            for (int i = 0; i < kAtOnce; ++i)
                if (exists[i])
                    Work::template run<Access>(elements.task, at[i], operands[i], [&](int k) { return numbers[k]; });
        }
    }
    run_rest<Work, Access>(elements);
}

inline int64_t greatest_divisor(int64_t a, int64_t b) { return b == 0 ? a : greatest_divisor(b, a % b); }

// Shares the elements out to blocks, in vectors of `width`.
inline GridElements share_out(const NormTask& task, int width, Grid& grid) {
    const NormLayout& l = task.layout;
    GridElements elements{task,
                          Divisor(l.inner),
                          Divisor(l.channels),
                          SmallDivisor(l.inner),
                          SmallDivisor(l.channels),
                          l.total / width,
                          0,
                          0,
                          0,
                          1,
                          1,
                          0};
    grid.threads = kThreads;
    if (l.planes) {
        elements.per_block = kThreads * kSteps;
        grid.blocks = ceil_div(elements.vectors, elements.per_block);
    } else {
        const int64_t period = l.channels * l.inner;
        elements.cycle = period / greatest_divisor(period, width);
        elements.parts = static_cast<int>(ceil_div(elements.cycle, kThreads));
        // A block has as many cycles as fit, but no more than there are in each of several samples.
        int64_t cycles = kThreads / elements.cycle;
        if (task.samples > 1 && cycles * elements.cycle > elements.vectors)
            cycles = ceil_div(elements.vectors, elements.cycle);
        if (cycles < 1) cycles = 1;
        elements.step = cycles * elements.cycle;
        grid.threads = static_cast<int>(ceil_div(elements.step, elements.parts));
        // Once there are enough blocks, a thread takes several vectors, because it looks its coefficients up only once.
        const int64_t steps = ceil_div(elements.vectors, elements.step);
        const int64_t rounds = steps * elements.parts * task.samples / kBlocks;
        elements.rounds = static_cast<int>(rounds < 1 ? 1 : rounds < kRounds ? rounds : kRounds);
        elements.blocks = ceil_div(steps, elements.rounds) * elements.parts;
        grid.blocks = elements.blocks * task.samples;
    }
    if (grid.blocks == 0) grid.blocks = 1;  // fewer elements than a vector holds
    return elements;
}

using ElementKernel = void (*)(GridElements);

// The kernels of one kind of work: vectors of each type, single elements in either compute type.
struct ElementKernels {
    ElementKernel planes[2][4], columns[2][4];  // planes: whether vectors are whole; columns: of one or more samples
    ElementKernel single_planes[2], single_columns[2][2];
};

#define FASTOPT_PLANES(kWhole)                                                                          \
    {run_planes<Work, Vectors<Plain<float>>, kWhole>, run_planes<Work, Vectors<Plain<double>>, kWhole>, \
     run_planes<Work, Vectors<Narrow<BFloat16>>, kWhole>, run_planes<Work, Vectors<Narrow<Float16>>, kWhole>}
#define FASTOPT_COLUMNS(kSamples)                                                                             \
    {run_columns<Work, Vectors<Plain<float>>, kSamples>, run_columns<Work, Vectors<Plain<double>>, kSamples>, \
     run_columns<Work, Vectors<Narrow<BFloat16>>, kSamples>, run_columns<Work, Vectors<Narrow<Float16>>, kSamples>}
#define FASTOPT_SINGLE_COLUMNS(kSamples) \
    {run_columns<Work, Singles<float>, kSamples>, run_columns<Work, Singles<double>, kSamples>}

template <class Work>
constexpr ElementKernels element_kernels = {
    {FASTOPT_PLANES(false), FASTOPT_PLANES(true)},
    {FASTOPT_COLUMNS(false), FASTOPT_COLUMNS(true)},
    {run_planes<Work, Singles<float>, true>, run_planes<Work, Singles<double>, true>},
    {FASTOPT_SINGLE_COLUMNS(false), FASTOPT_SINGLE_COLUMNS(true)},
};

// The number of elements in 16 bytes.
inline int width_of(DType type) { return int(sizeof(uint4)) / (type == DType::f64 ? 8 : type == DType::f32 ? 4 : 2); }

template <class... Arrays>
void run_elements(const Stream& stream, const char* name, const ElementKernels& kernels, const NormTask& task,
                  const Arrays&... operands) {
    const DType type = task.input.type;
    const bool planes = task.layout.planes;
    // The first element of every sample has to be aligned; then vectors do not reach into the next one.
    const bool aligned =
        (is_aligned(operands.data) && ...) && (task.samples == 1 || task.layout.total % width_of(type) == 0);
    Grid grid{};
    const int width = aligned ? width_of(type) : 1;
    const GridElements elements = share_out(task, width, grid);
    const bool whole = task.layout.inner % width == 0;
    const ElementKernel vectors = (planes ? kernels.planes[whole] : kernels.columns[task.samples > 1])[int(type)];
    const ElementKernel singles =
        (planes ? kernels.single_planes : kernels.single_columns[task.samples > 1])[type == DType::f64];
    launch(stream, name, aligned ? vectors : singles, grid, elements);
}

}  // namespace
}  // namespace fastopt::cuda
