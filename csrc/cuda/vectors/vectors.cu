// Gathers a vector from the tensors of all parameters, measures it, and scatters it to them.
#include "cuda/join.h"
#include "cuda/vectors/segments.h"

namespace fastopt::cuda {
namespace {

constexpr int kStaged = 8 * kThreads;  // partial results of a sum

// Elements of a gradient, of its change and of a direction, in shared memory.
template <class T>
struct GradientPiece {
    T grad[kOfBlock<T>], change[kOfBlock<T>], direction[kOfBlock<T>];
};

// What is measured of a gradient, one lane each: the first warp's sums of the gradient alone, the next ones' with the
// direction, the last one's of the change.
struct GradientLanes {
    double first = 0, second = 0, third = 0;

    template <class T>
    __device__ __forceinline__ void add(const GradientPiece<T>& piece, int n) {
        switch (warp_of_thread()) {
            case 0:
                return by_lane(n, [&](int i) {
                    const double g = double(piece.grad[i]), size = magnitude(g);
                    first = maximum(first, size);
                    second += size;
                    third += g * g;
                });
            case 1: return by_lane(n, [&](int i) { first += double(piece.grad[i]) * double(piece.direction[i]); });
            case 2: return by_lane(n, [&](int i) { first += double(piece.change[i]) * double(piece.direction[i]); });
            case 3:
                return by_lane(n, [&](int i) {
                    const double y = double(piece.change[i]);
                    first += y * y;
                    second += double(piece.grad[i]) * y;
                });
            default: return;
        }
    }

    __device__ __forceinline__ void write(const VectorTask& task) const {
        switch (warp_of_thread()) {
            case 0:
                write_partial(task, kLargest, first, Largest::join);
                write_partial(task, kMagnitudes, second, Squares::join);
                return write_partial(task, kSquares, third, Squares::join);
            case 1: return write_partial(task, kSlope, first, Squares::join);
            case 2: return write_partial(task, kSlopeChange, first, Squares::join);
            case 3:
                write_partial(task, kChangeSquares, first, Squares::join);
                return write_partial(task, kChange, second, Squares::join);
            default: return;
        }
    }
};

// Without a direction there is no change either, and their sums are 0.
template <class T>
__global__ void __launch_bounds__(kThreads, 4) gather_chunks(const __grid_constant__ VectorTask task) {
    FASTOPT_SHARED(GradientPiece<T>, piece);
    const Chunk chunk(task, blockIdx.x);
    const int own = warp_of_thread() * kOfWarp<T>;
    GradientLanes lanes;
    for_pieces<T>(chunk, [&](int begin, int n) {
        const int64_t at = chunk.begin + begin + own;
        const bool compares = task.measures && task.direction != nullptr;
        T values[kEach<T>] = {}, directions[kEach<T>] = {}, before[kEach<T>] = {};
        if (compares) {
            load_own(task.direction, at, n - own, directions);
            load_own(task.previous, at, n - own, before);
        }
        visit_segments<kEach<T>>(task, at, n - own, [&](auto format, int k, const Segment& segment, int64_t index) {
            using Format = decltype(format);
            if (segment.array.data == nullptr) return;
            values[k] = T(segment.weight) * T(load_element<Format>(segment.array.data, index));
        });
        FASTOPT_UNROLL
        for (int k = 0; k < kEach<T>; ++k) {
            const int i = own + k * kLanes + lane_of_thread();
            if (i >= n) break;
            static_cast<T*>(task.out)[chunk.begin + begin + i] = piece.grad[i] = values[k];
            piece.direction[i] = directions[k];
            piece.change[i] = values[k] - before[k];
        }
        if (!task.measures) return;
        __syncthreads();
        if (task.direction != nullptr || warp_of_thread() == 0) lanes.add(piece, n);
        __syncthreads();
    });
    if (task.measures) lanes.write(task);
}

// tensor = base + t * weight * direction; without direction base.
template <class T>
__global__ void __launch_bounds__(kThreads, 4) scatter_pieces(const __grid_constant__ VectorTask task) {
    const int64_t at = int64_t(blockIdx.x) * kOfBlock<T> + warp_of_thread() * kOfWarp<T>;
    const int n = int(task.n - at < kOfWarp<T> ? task.n - at : kOfWarp<T>);
    T values[kEach<T>] = {}, moves[kEach<T>] = {};
    load_own(task.base, at, n, values);
    if (task.direction != nullptr) load_own(task.direction, at, n, moves);
    visit_segments<kEach<T>>(task, at, n, [&](auto format, int k, const Segment& segment, int64_t index) {
        using Format = decltype(format);
        const T moved = values[k] + T(task.t * segment.weight) * moves[k];
        const T value = task.direction != nullptr ? moved : values[k];
        store_element<Format>(segment.array.data, index, typename Format::Compute(value));
    });
}

// A block joins the partial results of a sum.
__global__ void __launch_bounds__(kThreads) join_partials(const __grid_constant__ VectorTask task, int64_t largest) {
    FASTOPT_SHARED(double[kStaged], staged);
    const int64_t sum = blockIdx.x;
    const bool is_maximum = sum == largest;
    const auto join = [is_maximum](double a, double b) { return is_maximum ? maximum(a, b) : a + b; };
    const double all = join_in_block<kThreads>(task.partials + sum * task.chunks, task.chunks, 0, staged, join);
    if (threadIdx.x == 0) task.sums[sum] = all;
}

}  // namespace

void join_sums(const Stream& stream, const VectorTask& task, int64_t count, int64_t largest) {
    launch(stream, "sums", join_partials, {count, kThreads}, task, largest);
}

void gather_vector(const Stream& stream, const VectorTask& task) {
    const auto kernel = task.type == DType::f64 ? gather_chunks<double> : gather_chunks<float>;
    launch(stream, "vector", kernel, {task.chunks, kThreads}, task);
    if (task.measures) join_sums(stream, task, kGradientSums, kLargest);
}

void scatter_vector(const Stream& stream, const VectorTask& task) {
    if (task.type == DType::f64)
        launch(stream, "vector", scatter_pieces<double>, {blocks_of(task.n, kOfBlock<double>), kThreads}, task);
    else
        launch(stream, "vector", scatter_pieces<float>, {blocks_of(task.n, kOfBlock<float>), kThreads}, task);
}

}  // namespace fastopt::cuda
