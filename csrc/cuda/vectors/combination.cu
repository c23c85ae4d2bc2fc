// Combinations of a history's rows, which read it once, and what is measured of the direction that they make.
#include <type_traits>

#include "cuda/vectors/history.h"

namespace fastopt::cuda {
namespace {

// The combination of all rows at kWidth elements, of which there are n unless `kFull`.
template <bool kFull, int kWidth, class T>
__device__ __forceinline__ void combine_elements(const VectorTask& task, int64_t at, int n) {
    constexpr int kAhead = kWidth > 1 ? 8 : 16;
    double sums[kWidth];
    T values[kWidth];
    load_some<kFull, false>(static_cast<const T*>(task.grad) + at, n, values);
    FASTOPT_UNROLL
    for (int e = 0; e < kWidth; ++e) sums[e] = task.coefficients[0] * double(values[e]);
    const int rows = int(task.row_count);
    int first = 0;
    const auto add = [&](auto all) {  // kAhead rows, or those that are left
        const auto exists = [&](int k) { return decltype(all)::value || first + k < rows; };
        T x[kAhead][kWidth];
        double factors[kAhead];
        FASTOPT_UNROLL
        for (int k = 0; k < kAhead; ++k) {
            if (!exists(k)) continue;
            factors[k] = task.coefficients[1 + first + k];
            load_some<kFull, false>(static_cast<const T*>(task.rows[first + k]) + at, n, x[k]);
        }
        FASTOPT_UNROLL
        for (int k = 0; k < kAhead; ++k) {
            if (!exists(k)) continue;
            FASTOPT_UNROLL
            for (int e = 0; e < kWidth; ++e) sums[e] += factors[k] * double(x[k][e]);
        }
    };
    for (; first + kAhead <= rows; first += kAhead) add(std::true_type());
    if (first < rows) add(std::false_type());
    FASTOPT_UNROLL
    for (int e = 0; e < kWidth; ++e) values[e] = T(sums[e]);
    store_some<kFull>(static_cast<T*>(task.out) + at, n, values);
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads, 2) combine_vectors(const __grid_constant__ VectorTask task) {
    const int64_t at = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kWidth, left = task.n - at;
    if (left >= kWidth)
        combine_elements<true, kWidth, T>(task, at, kWidth);
    else if (left > 0)
        combine_elements<false, kWidth, T>(task, at, int(left));
}

template <class T>
struct DirectionPiece {
    T direction[kOfBlock<T>], grad[kOfBlock<T>];
};

// What is measured of a direction, of a chunk.
template <class T>
__global__ void __launch_bounds__(kThreads) measure_chunks(const __grid_constant__ VectorTask task) {
    FASTOPT_SHARED(DirectionPiece<T>, piece);
    const Chunk chunk(task, blockIdx.x);
    const int own = warp_of_thread() * kOfWarp<T>;
    double first = 0, second = 0;
    for_pieces<T>(chunk, [&](int begin, int n) {
        T directions[kEach<T>] = {}, grads[kEach<T>] = {};
        load_own(task.out, chunk.begin + begin + own, n - own, directions);
        load_own(task.grad, chunk.begin + begin + own, n - own, grads);
        FASTOPT_UNROLL
        for (int k = 0; k < kEach<T>; ++k) {
            const int i = own + k * kLanes + lane_of_thread();
            piece.direction[i] = directions[k];
            piece.grad[i] = grads[k];
        }
        __syncthreads();
        if (warp_of_thread() == 0)
            by_lane(n, [&](int i) {
                const double d = double(piece.direction[i]);
                first = maximum(first, magnitude(d));
                second += d * d;
            });
        else if (warp_of_thread() == 1)
            by_lane(n, [&](int i) { first += double(piece.grad[i]) * double(piece.direction[i]); });
        __syncthreads();
    });
    if (warp_of_thread() == 0) {
        write_partial(task, kLargestStep, first, Largest::join);
        write_partial(task, kStepSquares, second, Squares::join);
    } else if (warp_of_thread() == 1) {
        write_partial(task, kDescent, first, Squares::join);
    }
}

template <class T>
void start_combination(const Stream& stream, const VectorTask& task) {
    if (task.aligned && task.n >= kManyElements * multiprocessors(stream))
        launch(stream, "combination", combine_vectors<T, kWide<T>>, {blocks_of(task.n, kThreads * kWide<T>), kThreads},
               task);
    else
        launch(stream, "combination", combine_vectors<T, 1>, {blocks_of(task.n, kFewThreads), kFewThreads}, task);
    launch(stream, "direction", measure_chunks<T>, {task.chunks, kThreads}, task);
}

}  // namespace

void combine_rows(const Stream& stream, const VectorTask& task) {
    (task.type == DType::f64 ? start_combination<double> : start_combination<float>)(stream, task);
    join_sums(stream, task, kDirectionSums, kLargestStep);
}

}  // namespace fastopt::cuda
