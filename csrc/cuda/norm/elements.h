// The element kernels of batch normalization: 16 bytes of each operand at a time, wherever segments begin and end; one
// element at a time where memory is not aligned.
//
// Columns: a thread stays in its columns and keeps their coefficients in registers. Planes: a thread looks up the
// channels of each vector, two at most.
#pragma once

#include "cuda/divisor.h"
#include "cuda/norm/norm.h"

namespace fastopt::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSteps = 4;      // vectors per thread in planes
constexpr int kRounds = 8;     // vectors per thread in columns, at most
constexpr int kBlocks = 1024;  // enough to keep a GPU busy

// How elements are loaded and stored: as vectors of one format, or singly and of any type.
template <class Format>
struct Vectors {
    using Compute = typename Format::Compute;
    static constexpr int width = int(sizeof(uint4) / sizeof(typename Format::Storage));
    __device__ __forceinline__ static void load(const Array& from, int64_t at, Compute (&values)[width]) {
        load_vector<Format>(from.data, at, values);
    }
    __device__ __forceinline__ static void store(const Array& to, int64_t at, const Compute (&values)[width]) {
        store_vector<Format>(to.data, at, values);
    }
};

template <class T>
struct Singles {
    using Compute = T;
    static constexpr int width = 1;
    __device__ __forceinline__ static void load(const Array& from, int64_t at, T (&values)[1]) {
        values[0] = load_element<T>(from.data, from.type, at);
    }
    __device__ __forceinline__ static void store(const Array& to, int64_t at, const T (&values)[1]) {
        store_element(to.data, to.type, at, values[0]);
    }
};

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
    int64_t vectors, per_block;  // planes: the number of vectors, and per block
    int64_t cycle, step;         // columns: vectors after which channels repeat; the distance to a thread's next vector
    int parts, rounds;           // columns: blocks per cycle; vectors per thread
    int64_t blocks;              // columns: per sample
};

// One element that does not belong to a full vector. `Work::run<Access>(task, at, numbers)` does the work.
template <class Work, class T>
__device__ __forceinline__ void run_single(const GridElements& elements, int64_t at) {
    const int64_t segment = elements.inner.quotient(at);
    const int64_t channel = segment - elements.channels.quotient(segment) * elements.channels.number();
    const auto own = numbers_of<Work::projects, T>(elements.task, channel);
    Work::template run<Singles<T>>(elements.task, at, [&](int) { return own; });
}

template <class Work, class Access>
__device__ __forceinline__ void run_rest(const GridElements& elements) {
    if constexpr (Access::width > 1) {
        const int64_t at = elements.vectors * Access::width + threadIdx.x;
        if (blockIdx.x == gridDim.x - 1 && at < elements.task.layout.total)
            run_single<Work, typename Access::Compute>(elements, at);
    }
}

template <class Work, class Access>
__global__ void __launch_bounds__(kThreads) run_planes(const __grid_constant__ GridElements elements) {
    using T = typename Access::Compute;
    const int64_t begin = int64_t(blockIdx.x) * elements.per_block, end = begin + elements.per_block;
    for (int64_t v = begin + threadIdx.x; v < end && v < elements.vectors; v += kThreads) {
        int64_t place = v * Access::width, segment = elements.inner.split(place);
        int64_t channel = segment;
        elements.channels.split(channel);
        const int64_t left = elements.inner.number() - place;  // elements after these belong to the next channel
        const auto own = numbers_of<Work::projects, T>(elements.task, channel);
        auto next = own;
        if (left < Access::width)
            next = numbers_of<Work::projects, T>(elements.task,
                                                 channel + 1 < elements.task.layout.channels ? channel + 1 : 0);
        Work::template run<Access>(elements.task, v * Access::width, [&](int k) { return k < left ? own : next; });
    }
    run_rest<Work, Access>(elements);
}

// `kSamples`: each sample has coefficients of its own. The kernels for a single one need fewer registers.
template <class Work, class Access, bool kSamples>
__global__ void __launch_bounds__(kThreads, kSamples ? 2 : 1)
    run_columns(const __grid_constant__ GridElements elements) {
    using T = typename Access::Compute;
    const NormLayout& l = elements.task.layout;
    const int64_t sample = kSamples ? blockIdx.x / elements.blocks : 0;
    const unsigned block = kSamples ? unsigned(blockIdx.x - sample * elements.blocks) : blockIdx.x;
    const int64_t turn = block / elements.parts, part = block % elements.parts;
    const int64_t place = part * blockDim.x + threadIdx.x;
    const int64_t first = turn * elements.rounds * elements.step + place;
    if (place < elements.step && first < elements.vectors) {
        Numbers<T> numbers[Access::width];
        for (int k = 0; k < Access::width; ++k) {
            int64_t channel = elements.inner.quotient(place % elements.cycle * Access::width + k);
            elements.channels.split(channel);
            numbers[k] =
                numbers_of<Work::projects, T>(elements.task, kSamples ? channel + sample * l.channels : channel);
        }
        for (int r = 0; r < elements.rounds; ++r) {
            const int64_t v = first + r * elements.step;
            if (v >= elements.vectors) break;
            const int64_t at = (kSamples ? v + sample * elements.vectors : v) * Access::width;
            Work::template run<Access>(elements.task, at, [&](int k) { return numbers[k]; });
        }
    }
    run_rest<Work, Access>(elements);
}

inline int64_t greatest_divisor(int64_t a, int64_t b) { return b == 0 ? a : greatest_divisor(b, a % b); }

// Shares the elements out to blocks, in vectors of `width`.
inline GridElements share_out(const NormTask& task, int width, Grid& grid) {
    const NormLayout& l = task.layout;
    GridElements elements{task, Divisor(l.inner), Divisor(l.channels), l.total / width, 0, 0, 0, 1, 1, 0};
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
    ElementKernel planes[4], columns[2][4], single_planes[2], single_columns[2][2];  // columns: of one or more samples
};

#define FASTOPT_COLUMNS(kSamples)                                                                             \
    {run_columns<Work, Vectors<Plain<float>>, kSamples>, run_columns<Work, Vectors<Plain<double>>, kSamples>, \
     run_columns<Work, Vectors<Narrow<BFloat16>>, kSamples>, run_columns<Work, Vectors<Narrow<Float16>>, kSamples>}
#define FASTOPT_SINGLE_COLUMNS(kSamples) \
    {run_columns<Work, Singles<float>, kSamples>, run_columns<Work, Singles<double>, kSamples>}

template <class Work>
constexpr ElementKernels element_kernels = {
    {run_planes<Work, Vectors<Plain<float>>>, run_planes<Work, Vectors<Plain<double>>>,
     run_planes<Work, Vectors<Narrow<BFloat16>>>, run_planes<Work, Vectors<Narrow<Float16>>>},
    {FASTOPT_COLUMNS(false), FASTOPT_COLUMNS(true)},
    {run_planes<Work, Singles<float>>, run_planes<Work, Singles<double>>},
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
    const ElementKernel vectors = (planes ? kernels.planes : kernels.columns[task.samples > 1])[int(type)];
    const ElementKernel singles =
        (planes ? kernels.single_planes : kernels.single_columns[task.samples > 1])[type == DType::f64];
    launch(stream, name, aligned ? vectors : singles, grid, elements);
}

}  // namespace
}  // namespace fastopt::cuda
