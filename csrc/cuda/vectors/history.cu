// A history's products with the gradient and its change, which read the history once.
#include "cuda/vectors/history.h"

namespace fastopt::cuda {
namespace {

constexpr int kManyRows = 4;  // of which a thread has a part, where there is much to do

// The products of kRows rows with a chunk. A thread has kWidth neighbouring lanes of each, so that 32 / kWidth threads
// have all lanes, and a warp kWidth * kRows rows.
template <class T, int kWidth, int kRows>
struct RowProducts {
    static constexpr int kThreadsEach = kLanes / kWidth, kOfAWarp = kWidth * kRows;
    static constexpr int kSteps = kWidth > 1 ? 1 : int((kRows > 1 ? 16 : 64) / sizeof(T));  // whose loads are in flight

    const VectorTask& task;
    const int first;  // this thread's first row
    const T *rows[kRows], *grad, *previous;
    double lanes[kRows][2][kWidth] = {};

    // `at`: this thread's first element of the vector.
    __device__ __forceinline__ RowProducts(const VectorTask& of, int first_row, int64_t at)
        : task(of), first(first_row) {
        grad = static_cast<const T*>(task.grad) + at;
        previous = task.measures ? static_cast<const T*>(task.previous) + at : grad;
        FASTOPT_UNROLL
        for (int k = 0; k < kRows; ++k) {
            rows[k] = grad;  // of no row, or of a change that is new
            if (is_new_step(k))
                rows[k] = static_cast<const T*>(task.direction) + at;
            else if (first + k < task.row_count && !is_new_change(k))
                rows[k] = static_cast<const T*>(task.rows[row_of(k)]) + at;
        }
    }

    // The newest pair comes first: so it is known at compile time which of a thread's rows it may be. After it come all
    // other rows in their order.
    __device__ __forceinline__ int row_of(int k) const {
        const int pairs = int(task.row_count / 2), i = first + k;
        return i == 0 ? pairs - 1 : i == 1 ? 2 * pairs - 1 : i <= pairs ? i - 2 : i - 1;
    }
    __device__ __forceinline__ bool is_new_step(int k) const { return k == 0 && first == 0 && task.measures; }
    __device__ __forceinline__ bool is_new_change(int k) const {
        return k == (kRows > 1) && first == (kRows == 1) && task.measures;
    }

    // Adds kSteps times 32 elements of each row, from the i-th on; or, unless `kFull`, fewer: `left` from this thread's
    // first one on. What is missing adds zeros, which changes no sum.
    template <bool kFull>
    __device__ __forceinline__ void add(int i, int left) {
        T g[kSteps][kWidth], before[kSteps][kWidth], x[kSteps][kRows][kWidth];
        FASTOPT_UNROLL
        for (int s = 0; s < kSteps; ++s) {
            load_some<kFull, true>(grad + i + s * kLanes, left - s * kLanes, g[s]);
            load_some<kFull, true>(previous + i + s * kLanes, left - s * kLanes, before[s]);
            FASTOPT_UNROLL
            for (int k = 0; k < kRows; ++k)
                load_some<kFull, false>(rows[k] + i + s * kLanes, left - s * kLanes, x[s][k]);
        }
        FASTOPT_UNROLL
        for (int s = 0; s < kSteps; ++s) add_step<kFull>(i + s * kLanes, left - s * kLanes, g[s], before[s], x[s]);
    }

    // Writes the sums of this thread's rows.
    __device__ __forceinline__ void write(int64_t chunk) {
        const bool writes = lane_of_thread() % kThreadsEach == 0;
        FASTOPT_UNROLL
        for (int k = 0; k < kRows; ++k) {
            const double with_grad = merge_lanes(lanes[k][0], Squares::join, kThreadsEach);
            const double with_change = merge_lanes(lanes[k][1], Squares::join, kThreadsEach);
            if (!writes || first + k >= task.row_count) continue;
            double* const partials = task.partials + 2 * int64_t(row_of(k)) * task.chunks + chunk;
            partials[0] = with_grad;
            partials[task.chunks] = task.measures ? with_change : 0;
        }
    }

   private:
    template <bool kFull>
    __device__ __forceinline__ void add_step(int i, int left, const T (&g)[kWidth], const T (&before)[kWidth],
                                             T (&x)[kRows][kWidth]) {
        T change[kWidth];
        FASTOPT_UNROLL
        for (int e = 0; e < kWidth; ++e) change[e] = g[e] - before[e];
        FASTOPT_UNROLL
        for (int k = 0; k < kRows; ++k) {
            if (is_new_step(k) || is_new_change(k)) {
                FASTOPT_UNROLL
                for (int e = 0; e < kWidth; ++e)
                    if (kFull || e < left) x[k][e] = is_new_step(k) ? T(task.t) * x[k][e] : change[e];
                const int64_t at = grad - static_cast<const T*>(task.grad) + i;
                store_some<kFull>(static_cast<T*>(task.rows[row_of(k)]) + at, left, x[k]);
            }
            FASTOPT_UNROLL
            for (int e = 0; e < kWidth; ++e) {
                lanes[k][0][e] += double(x[k][e]) * double(g[e]);
                lanes[k][1][e] += double(x[k][e]) * double(change[e]);
            }
        }
    }
};

// A warp takes a chunk and some rows; neighbours take the next rows, so that they find the gradient in the caches.
template <class T, int kWidth, int kRows>
__global__ void __launch_bounds__(kThreads, 2) multiply_rows(const __grid_constant__ VectorTask task) {
    using Products = RowProducts<T, kWidth, kRows>;
    constexpr int kElements = Products::kSteps * kLanes;
    const uint32_t groups = uint32_t(task.row_count + Products::kOfAWarp - 1) / Products::kOfAWarp;
    const uint32_t unit = (blockIdx.x * blockDim.x + threadIdx.x) / kLanes, number = unit / groups;
    if (number >= task.chunks) return;
    const Chunk chunk(task, number);
    const int lane = lane_of_thread(), own = lane % Products::kThreadsEach * kWidth;
    const int row = int(unit % groups) * Products::kOfAWarp + lane / Products::kThreadsEach * kRows;
    Products products(task, row, chunk.begin + own);
    int i = 0;
    for (; i + kElements <= chunk.n; i += kElements) products.template add<true>(i, kWidth);
    if (i < chunk.n) products.template add<false>(i, chunk.n - i - own);
    products.write(number);
}

template <class T, int kWidth>
void start_products(const Stream& stream, const VectorTask& task) {
    const int64_t warps = task.chunks * blocks_of(task.row_count, kWidth * kManyRows),
                  few = task.chunks * task.row_count;
    if (warps >= kManyWarps * multiprocessors(stream))
        launch(stream, "products", multiply_rows<T, kWidth, kManyRows>, {blocks_of(warps, kWarps), kThreads}, task);
    else
        launch(stream, "products", multiply_rows<T, 1, 1>, {blocks_of(few, kFewThreads / kLanes), kFewThreads}, task);
}

}  // namespace

void multiply_history(const Stream& stream, const VectorTask& task) {
    if (task.type == DType::f64)
        (task.aligned ? start_products<double, kWide<double>> : start_products<double, 1>)(stream, task);
    else
        (task.aligned ? start_products<float, kWide<float>> : start_products<float, 1>)(stream, task);
    join_sums(stream, task, 2 * task.row_count, kNone);
}

}  // namespace fastopt::cuda
