// The backward pass of bias and dropout: the gradient of the input, and the sums of its columns in the CPU's shape
// (random/task.h). A warp takes a strip of rows, a thread block takes the strips of a block of rows.
#include "cuda/dropout/dropout.h"

namespace fastopt::cuda {
namespace {

constexpr int kColumns = kElementsPerBlock * kLanes;  // per warp
static_assert(kWarps * kSumStrip == kSumRows && kWarps * kLanes == kColumns);

template <class Format>
struct Sums {
    Drop<Dropout, Format> drop;
    int64_t rows, columns;
    double* of_blocks;  // [blocks of rows][columns]
    Divisor across;     // thread blocks per block of rows
};

// Rows whose loads are in flight together.
template <class Format>
constexpr int kRows = sizeof(typename Format::Storage) == 8 ? 2 : 4;

// Sums the rows [row, end), `kAtOnce` in flight together, and in each the `n` columns from `column` on.
template <int W, int kAtOnce, class Format>
__device__ __forceinline__ void sum_strip(const Sums<Format>& sums, int64_t row, int64_t end, int64_t column, int n,
                                          double* of_columns) {
    using T = typename Format::Compute;
    constexpr int kAccesses = kElementsPerBlock / W;
    const Mask mask = sums.drop.mask.get();
    double own[kAccesses][W] = {};
    FASTOPT_ROLL
    for (; row < end; row += kAtOnce) {
        typename Drop<Dropout, Format>::template AccessElements<W> elements[kAtOnce][kAccesses] = {};
        FASTOPT_UNROLL
        for (int r = 0; r < kAtOnce; ++r) {
            FASTOPT_UNROLL
            for (int i = 0; i < kAccesses; ++i) {
                const int place = place_in_window<W>(i);
                if (row + r < end && place < n)
                    elements[r][i].load(sums.drop, (row + r) * sums.columns + column + place);
            }
        }
        FASTOPT_UNROLL
        for (int r = 0; r < kAtOnce; ++r) {
            if (row + r >= end) continue;
            const int64_t at = (row + r) * sums.columns + column;
            const unsigned drawn = flags_from(mask, uint64_t(at + place_in_window<kElementsPerBlock>(0)));
            FASTOPT_UNROLL
            for (int i = 0; i < kAccesses; ++i) {
                const int place = place_in_window<W>(i);
                const unsigned flags = flags_at_place<kElementsPerBlock>(drawn, place);
                if (place >= n) continue;
                T results[W];
                elements[r][i].apply(sums.drop, flags, results);
                FASTOPT_UNROLL
                for (int k = 0; k < W; ++k) own[i][k] += double(results[k]);
                if (sums.drop.out != nullptr) Stored<Format, W>::store(sums.drop.out, at + place, results);
            }
        }
    }
    FASTOPT_UNROLL
    for (int i = 0; i < kAccesses; ++i) {
        FASTOPT_UNROLL
        for (int k = 0; k < W; ++k) of_columns[place_in_window<W>(i) + k] = own[i][k];
    }
}

template <class Format>
__global__ void __launch_bounds__(kWarps* kLanes, kBlocks)
    sum_rows(const __grid_constant__ Sums<Format> sums, bool vectors) {
    FASTOPT_SHARED(double[kWarps][kColumns], of_strips);
    const Divisor::Result place = sums.across.divide(blockIdx.x);
    const int64_t block = int64_t(place.quotient), column = int64_t(place.remainder) * kColumns;
    const int warp = int(threadIdx.x / kLanes);
    const int64_t first = block * kSumRows + warp * kSumStrip;
    const int64_t end = first + kSumStrip < sums.rows ? first + kSumStrip : sums.rows;
    const int n = sums.columns - column < kColumns ? int(sums.columns - column) : kColumns;
    if (vectors)
        sum_strip<kWidth<Format>, kRows<Format>>(sums, first, end, column, n, of_strips[warp]);
    else
        sum_strip<1, 1>(sums, first, end, column, n, of_strips[warp]);
    __syncthreads();
    if (int(threadIdx.x) >= n) return;
    double total = 0;
    for (int strip = 0; strip < kWarps; ++strip) total += of_strips[strip][threadIdx.x];
    sums.of_blocks[block * sums.columns + column + threadIdx.x] = total;
}

constexpr int kJoiners = 64;
constexpr int kLoads = 16;  // in flight per thread

// A thread takes a column.
template <class T>
__global__ void __launch_bounds__(kJoiners)
    join_blocks(const double* of_blocks, int64_t blocks, int64_t columns, void* grad_bias, DType type) {
    const int64_t column = int64_t(blockIdx.x) * kJoiners + threadIdx.x;
    if (column >= columns) return;
    double total = 0;
    for (int64_t first = 0; first < blocks; first += kLoads) {
        double loaded[kLoads];
        FASTOPT_UNROLL
        for (int k = 0; k < kLoads; ++k) loaded[k] = first + k < blocks ? of_blocks[(first + k) * columns + column] : 0;
        FASTOPT_UNROLL
        for (int k = 0; k < kLoads; ++k) total += loaded[k];
    }
    store_element(grad_bias, type, column, T(total));
}

}  // namespace

void drop_and_sum(const Stream& stream, const DropoutTask& task, const Array& grad_bias) {
    const int64_t columns = task.columns, blocks = (task.rows + kSumRows - 1) / kSumRows;
    with_format(task.input.type, [&](auto format) {
        using Format = decltype(format);
        const int64_t across = (columns + kColumns - 1) / kColumns;
        const Sums<Format> sums{Drop<Dropout, Format>(task), task.rows, columns, task.column_sums, Divisor(across)};
        launch(stream, "sums of a bias's gradient", sum_rows<Format>, {blocks * across, kWarps * kLanes}, sums,
               takes_vectors(task, kWidth<Format>));
        launch(stream, "gradient of a bias", join_blocks<typename Format::Compute>,
               {(columns + kJoiners - 1) / kJoiners, kJoiners}, task.column_sums, blocks, columns, grad_bias.data,
               grad_bias.type);
    });
}

}  // namespace fastopt::cuda
