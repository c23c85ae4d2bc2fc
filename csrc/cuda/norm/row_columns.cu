// The gradients of weight and bias of rows: sums over columns. A thread block takes some columns of a flush block of
// rows, a thread takes one column or a vector of them. A second launch joins flush blocks and chunks of rows in order.
//
// Bytes per element, float32: 8.
#include "cuda/norm/rows.h"

namespace fastopt::cuda {
namespace {

constexpr int kThreads = 128;               // at most
constexpr int64_t kEnough = 1024 * kLanes;  // threads that keep a GPU busy, if each has a vector

// How the columns are shared out.
struct ColumnGrid {
    int64_t chunks, flushes;  // flush blocks of a chunk
    int64_t across;           // blocks for the columns of a set
    int64_t rows;
    bool centered;
};

struct RowRange {
    int64_t begin, end;
};

// The rows of a flush block; none in the last chunk's last ones, if it is shorter.
__device__ __forceinline__ RowRange rows_of(const NormTask& task, const ColumnGrid& grid, int64_t chunk,
                                            int64_t flush) {
    const int64_t first = chunk * task.chunk_rows, begin = first + flush * kFlushRows;
    int64_t end = first + task.chunk_rows;
    if (end > begin + kFlushRows) end = begin + kFlushRows;
    return {begin, end < grid.rows ? end : grid.rows};
}

template <class Format, class Activation, int N>
__global__ void __launch_bounds__(kThreads)
    sum_columns(const __grid_constant__ NormTask task, const __grid_constant__ ColumnGrid grid) {
    using T = typename Format::Compute;
    constexpr int kAtOnce = N == 1 && sizeof(T) == sizeof(float) ? 8 : 4;  // more would not fit into registers
    struct Operands {
        Stored<Format, N> x, grad;
    };
    FASTOPT_SHARED(Coefficients<T>[kFlushRows], coefficients);
    // Divisions of 32 bits: those of 64 are calls, for which registers are spilled.
    const unsigned across = unsigned(grid.across), sets = unsigned(task.row_sets), flushes = unsigned(grid.flushes);
    const unsigned set_unit = blockIdx.x / across, part = blockIdx.x - set_unit * across;
    const int64_t unit = set_unit / sets, set = set_unit % sets;  // of the row
    const int64_t chunk = unsigned(unit) / flushes, of_set = task.sets.inner, n = of_set * task.row_sets;
    const RowRange range = rows_of(task, grid, chunk, unit - chunk * grid.flushes);
    const int rows = range.end > range.begin ? int(range.end - range.begin) : 0;
    for (int r = int(threadIdx.x); r < rows; r += int(blockDim.x)) {
        const int64_t row = (range.begin + r) * task.row_sets + set;
        coefficients[r] = coefficients_of_row<T>(mean_of(task, row), inverse_std_of(task, row), grid.centered);
    }
    __syncthreads();
    const int64_t in_set = (int64_t(part) * blockDim.x + threadIdx.x) * N, column = set * of_set + in_set;
    if (rows == 0 || in_set >= of_set) return;
    T weight[N], bias[N], of_weight[N] = {}, of_bias[N] = {};
    const bool has_weight = !kPasses<Activation> && task.weight.data != nullptr;
    const bool has_bias = !kPasses<Activation> && task.bias.data != nullptr;
    if (has_weight) load_parameters<Format>(task, task.weight, column, weight);
    if (has_bias) load_parameters<Format>(task, task.bias, column, bias);
    const T slope = T(task.negative_slope);
    const int64_t at = range.begin * n + column;
    const auto load = [&](int r) {
        Operands loaded;
        loaded.x.load(task.input.data, at + r * n);
        loaded.grad.load(task.grad.data, at + r * n);
        return loaded;
    };
    const auto add = [&](const Operands& loaded, int r) {
        T x[N], grad[N];
        loaded.x.unpack(x);
        loaded.grad.unpack(grad);
        const Coefficients<T> of = coefficients[r];
        for (int k = 0; k < N; ++k) {
            const T own = normalized(x[k], of.center, of.scale, of.offset);
            if constexpr (!kPasses<Activation>) {
                T z = has_weight ? own * weight[k] : own;
                z = has_bias ? z + bias[k] : z;
                grad[k] = Activation::gradient(z, grad[k], slope);
            }
            of_weight[k] += grad[k] * own;
            of_bias[k] += grad[k];
        }
    };
    int r = 0;
    for (; r + kAtOnce <= rows; r += kAtOnce) {
        Operands loaded[kAtOnce];
        FASTOPT_UNROLL
        for (int k = 0; k < kAtOnce; ++k) loaded[k] = load(r + k);
        FASTOPT_UNROLL
        for (int k = 0; k < kAtOnce; ++k) add(loaded[k], r + k);
    }
    for (; r < rows; ++r) add(load(r), r);
    T* const sums = static_cast<T*>(task.accumulators) + 2 * unit * n + column;
    for (int k = 0; k < N; ++k) sums[k] = of_weight[k];
    for (int k = 0; k < N; ++k) sums[n + k] = of_bias[k];
}

constexpr int kMostChunks = 64;

// A block joins the columns of 32 parameters of one of both gradients; a warp adds up the flush blocks of a chunk.
template <class T>
__global__ void __launch_bounds__(kMostWarps* kLanes)
    join_columns(const __grid_constant__ NormTask task, const __grid_constant__ ColumnGrid grid) {
    FASTOPT_SHARED(double[kMostChunks][kLanes], totals);
    const int lane = int(threadIdx.x) % kLanes, warp = int(threadIdx.x) / kLanes;
    const bool is_bias = blockIdx.x >= grid.across;
    const int64_t parameter = (blockIdx.x - is_bias * grid.across) * kLanes + lane;
    const int64_t n = task.parameters * task.row_repeat;
    const Array& result = is_bias ? task.grad_bias : task.grad_weight;
    if (result.data == nullptr) return;
    double all = 0;
    for (int64_t i = 0; i < task.row_repeat; ++i) {  // columns that share the parameter
        const T* const sums = static_cast<const T*>(task.accumulators) + is_bias * n + parameter * task.row_repeat + i;
        for (int64_t chunk = warp; chunk < grid.chunks; chunk += kMostWarps) {
            double total = 0;
            const int64_t left = grid.rows - chunk * task.chunk_rows;
            const int64_t rows = left < task.chunk_rows ? left : task.chunk_rows,
                          flushes = (rows + kFlushRows - 1) / kFlushRows;
            const T* const own = sums + 2 * chunk * grid.flushes * n;
            if (parameter < task.parameters)
                for (int64_t k = 0; k < flushes; ++k) total += double(own[2 * k * n]);
            totals[chunk][lane] = total;
        }
        __syncthreads();
        if (warp == 0) {
            double of_column = 0;
            for (int chunk = 0; chunk < int(grid.chunks); ++chunk) of_column += totals[chunk][lane];
            all += of_column;
        }
        __syncthreads();
    }
    if (warp == 0 && parameter < task.parameters) set_element(result, parameter, all);
}

using Kernel = void (*)(NormTask, ColumnGrid);

// By DType: for single elements, and for vectors.
template <class Activation, class Format>
constexpr Kernel kernels_of[2] = {sum_columns<Format, Activation, 1>,
                                  sum_columns<Format, Activation, kWidth<typename Format::Storage>>};

#define FASTOPT_ROWS(name, Activation)                                            \
    {kernels_of<Activation, Plain<float>>, kernels_of<Activation, Plain<double>>, \
     kernels_of<Activation, Narrow<BFloat16>>, kernels_of<Activation, Narrow<Float16>>},
constexpr const Kernel* kernels[][4] = {FASTOPT_ACTIVATIONS(FASTOPT_ROWS)};

}  // namespace

void norm_row_columns(const Stream& stream, const NormTask& task, bool centered) {
    const int64_t n = task.sets.inner, rows = task.set_count / task.row_sets;
    const int64_t of_chunk = task.chunk_rows < rows ? task.chunk_rows : rows;
    ColumnGrid grid{rows == 0 ? 0 : ceil_div(rows, task.chunk_rows), ceil_div(of_chunk, kFlushRows), 0, rows, centered};
    if (rows > 0) {
        const int64_t width = int64_t(sizeof(uint4)) / element_bytes(task.input.type);
        const bool vectors = n % width == 0 && n / width * task.row_sets * grid.chunks * grid.flushes >= kEnough &&
                             all_aligned(task.input, task.grad, task.weight, task.bias);
        const int64_t threads = vectors ? n / width : n, most = ceil_div(threads, kLanes) * kLanes;
        const int of_block = most < kThreads ? int(most) : kThreads;
        grid.across = ceil_div(threads, of_block);
        launch(stream, "sums of columns", kernels[task.activation][int(task.input.type)][vectors],
               {grid.chunks * grid.flushes * task.row_sets * grid.across, of_block}, task, grid);
    }
    grid.across = ceil_div(task.parameters, kLanes);
    const Kernel join = task.input.type == DType::f64 ? join_columns<double> : join_columns<float>;
    launch(stream, "join of columns", join, {2 * grid.across, kMostWarps * kLanes}, task, grid);
}

}  // namespace fastopt::cuda
