// The gradient of rows, in one launch. A row that fits into shared memory is read once, as x and the gradient of z
// times the weight. Bytes per element, float32: 12, and 4 more where a gradient is added.
#include "cuda/norm/rows.h"

namespace fastopt::cuda {
namespace {

template <class Format, int N>
struct Operands {
    Stored<Format, N> x, grad;
};

// A row in shared memory.
template <class Format>
struct Staged {
    typename Format::Compute* gradients;
    typename Format::Storage* x;
};

// Turns gradients of the result into those of z times their weights.
template <class Format, int N>
__device__ __forceinline__ void pass_back(const NormTask& task, int64_t at,
                                          const Coefficients<typename Format::Compute>& of,
                                          const typename Format::Compute (&x)[N], typename Format::Compute (&grad)[N]) {
    using T = typename Format::Compute;
    if (task.activation != 0) {
        T z[N];
        for (int k = 0; k < N; ++k) z[k] = x[k];
        normalize<Format>(task, at, of, false, z);
        pass_gradient(task.activation, T(task.negative_slope), z, grad);
    }
    if (task.weight.data == nullptr) return;
    T weight[N];
    load_parameters<Format>(task, task.weight, at, weight);
    for (int k = 0; k < N; ++k) grad[k] = grad[k] * weight[k];
}

// Adds up g and g * (x - center), in the team's first thread; get(i, x, g) loads an element.
template <class T, class Get>
__device__ __forceinline__ PartialSums sum_row(const NormLayout& l, const Team& team, T center, Get get) {
    struct Loaded {
        T x, g;
    };
    return gather_row<JoinSums>(l, team, [&](const Flush& own) -> PartialSums {
        T sum{}, products{};
        for_places<4>(
            OneSegment(own.begin), own.n,
            [&](int64_t i) {
                Loaded loaded;
                get(i, loaded.x, loaded.g);
                return loaded;
            },
            [&](const Loaded& loaded, int64_t, bool is_element) {
                const T x = is_element ? loaded.x : center, g = is_element ? loaded.g : T(0);
                sum += g;
                products += g * (x - center);
            });
        return {merged(sum), merged(products)};
    });
}

template <class T>
__device__ __forceinline__ Projection<T> projection_of_row(const NormTask& task, int64_t row, bool centered,
                                                           PartialSums sums) {
    const double mean = mean_of(task, row), excess = mean - double(T(mean));
    const double sum = centered ? sums.first : 0;
    const Projection<T> less =
        projection<T>(mean, inverse_std_of(task, row), sum, sums.second - excess * sum, task.count);
    return {centered ? less.mean : T(0), less.slope};
}

// `N`: elements of a vector. Single elements are not staged.
template <class Format, int N>
__global__ void __launch_bounds__(kMostWarps* kLanes, sizeof(typename Format::Compute) == 4 ? kResident : 2)
    row_gradients(const __grid_constant__ NormTask task, const __grid_constant__ RowGrid grid) {
    using T = typename Format::Compute;
    constexpr bool kStages = N > 1;
    FASTOPT_SHARED(Projection<T>[kMostTeams], projections);
    FASTOPT_DYNAMIC_SHARED(unsigned char, memory);
    const Team team(grid);
    if (team.row >= task.set_count) return;
    const int64_t n = task.sets.inner, begin = team.row * n, parameters = parameters_of_set(task, team.row);
    const Coefficients<T> of =
        coefficients_of_row<T>(mean_of(task, team.row), inverse_std_of(task, team.row), grid.centered);
    T* const gradients =
        reinterpret_cast<T*>(memory + team.index * n * int64_t(sizeof(T) + sizeof(typename Format::Storage)));
    const Staged<Format> staged{gradients, reinterpret_cast<typename Format::Storage*>(gradients + n)};
    const auto load = [&](int64_t v) {
        Operands<Format, N> loaded;
        loaded.x.load(task.input.data, begin + v * N);
        loaded.grad.load(task.grad.data, begin + v * N);
        return loaded;
    };
    const auto unpack = [&](const Operands<Format, N>& loaded, int64_t v, T(&x)[N], T(&g)[N]) {
        loaded.x.unpack(x);
        loaded.grad.unpack(g);
        pass_back<Format>(task, parameters + v * N, of, x, g);
    };
    if constexpr (kStages) {
        team.for_vectors<2>(n / N, load, [&](const Operands<Format, N>& loaded, int64_t v) {
            T x[N], g[N];
            unpack(loaded, v, x, g);
            *reinterpret_cast<uint4*>(staged.x + v * N) = loaded.x.memory;
            FASTOPT_UNROLL
            for (int k = 0; k < N; k += kWidth<T>) {
                uint4 packed;
                __builtin_memcpy(&packed, g + k, sizeof packed);
                *reinterpret_cast<uint4*>(staged.gradients + v * N + k) = packed;
            }
        });
        team.sync();
    }
    const PartialSums sums = sum_row<T>(task.sets, team, of.center, [&](int64_t i, T& x, T& g) {
        if constexpr (kStages) {
            x = Format::load(staged.x[i]);
            g = staged.gradients[i];
        } else {
            T xs[N], gs[N];
            unpack(load(i), i, xs, gs);
            x = xs[0];
            g = gs[0];
        }
    });
    if (team.thread == 0) projections[team.index] = projection_of_row<T>(task, team.row, grid.centered, sums);
    team.sync();
    const Projection<T> less = projections[team.index];
    for (int64_t v = team.thread; v < n / N; v += team.threads) {
        T x[N], g[N];
        Stored<Format, N> other;
        if (task.grad_sum.data != nullptr) other.load(task.grad_sum.data, begin + v * N);
        if constexpr (kStages) {
            Stored<Format, N> stored;
            stored.memory = *reinterpret_cast<const uint4*>(staged.x + v * N);
            stored.unpack(x);
            FASTOPT_UNROLL
            for (int k = 0; k < N; k += kWidth<T>) {
                const uint4 packed = *reinterpret_cast<const uint4*>(staged.gradients + v * N + k);
                __builtin_memcpy(g + k, &packed, sizeof packed);
            }
        } else {
            unpack(load(v), v, x, g);
        }
        for (int k = 0; k < N; ++k) g[k] = projected(g[k], x[k], of.center, of.scale, less.mean, less.slope);
        if (task.grad_sum.data != nullptr) {
            other.unpack(x);
            for (int k = 0; k < N; ++k) g[k] += x[k];
        }
        Stored<Format, N>::store(task.grad_input.data, begin + v * N, g);
    }
}

using Kernel = void (*)(NormTask, RowGrid);

// By DType: for single elements, and for vectors.
template <class Format>
constexpr Kernel kernels_of[2] = {row_gradients<Format, 1>, row_gradients<Format, kWidth<typename Format::Storage>>};
constexpr const Kernel* kernels[4] = {kernels_of<Plain<float>>, kernels_of<Plain<double>>, kernels_of<Narrow<BFloat16>>,
                                      kernels_of<Narrow<Float16>>};

}  // namespace

void norm_row_gradient(const Stream& stream, const NormTask& task, bool centered) {
    const int64_t n = task.sets.inner, of_x = element_bytes(task.input.type), of_both = of_x + (of_x == 8 ? 8 : 4);
    const bool vectors = n * of_x % int64_t(sizeof(uint4)) == 0 && n * of_both <= kStagedBytes &&
                         all_aligned(task.input, task.grad, task.grad_sum, task.weight, task.bias, task.grad_input);
    const RowGrid grid = row_grid(n, vectors ? n * of_both : 0, centered);
    const Kernel kernel = kernels[int(task.input.type)][vectors];
    launch_rows(stream, "gradient", kernel, task, grid, n * of_both);
}

}  // namespace fastopt::cuda
