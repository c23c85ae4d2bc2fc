// Layer and RMS normalization, in one launch. A row that fits into shared memory is read once. Bytes per element,
// float32: 8, and 8 more where the input is a sum.
#include "cuda/norm/rows.h"

namespace fastopt::cuda {
namespace {

// Reads a row, or the two whose sum it is, and writes the sum. Returns where to read it again.
template <class Format, int N>
__device__ __forceinline__ const typename Format::Storage* take_row(const NormTask& task, const RowGrid& grid,
                                                                    const Team& team) {
    using Storage = typename Format::Storage;
    using Vector = Stored<Format, N>;
    using Memory = typename Vector::Memory;
    FASTOPT_DYNAMIC_SHARED(Memory, all_staged);
    const int64_t n = task.sets.inner, begin = team.row * n;
    auto* const staged = all_staged + team.index * (n / N);
    if (task.summands[0].data != nullptr) {
        struct Both {
            Vector first, second;
        };
        team.for_vectors<2>(
            n / N,
            [&](int64_t v) {
                Both both;
                both.first.load(task.summands[0].data, begin + v * N);
                both.second.load(task.summands[1].data, begin + v * N);
                return both;
            },
            [&](Both& both, int64_t v) {
                typename Format::Compute x[N], other[N];
                both.first.unpack(x);
                both.second.unpack(other);
                for (int k = 0; k < N; ++k) x[k] += other[k];
                both.first.pack(x);
                both.first.store(task.input.data, begin + v * N);
                if (grid.staged) staged[v] = both.first.memory;
            });
        team.sync();
    } else if (grid.staged) {
        team.for_vectors<4>(
            n / N,
            [&](int64_t v) {
                Vector vector;
                vector.load(task.input.data, begin + v * N);
                return vector;
            },
            [&](const Vector& vector, int64_t v) { staged[v] = vector.memory; });
        team.sync();
    }
    return grid.staged ? reinterpret_cast<const Storage*>(staged)
                       : static_cast<const Storage*>(task.input.data) + begin;
}

// Computes statistics, in the team's first thread.
template <class Format>
__device__ __forceinline__ Coefficients<typename Format::Compute> statistics_of(const NormTask& task,
                                                                                const RowGrid& grid, const Team& team,
                                                                                const typename Format::Storage* row) {
    using T = typename Format::Compute;
    using Storage = typename Format::Storage;
    double mean = 0, squares = 0;
    if (grid.centered) {
        const PartialSums found = gather_row<JoinMoments>(task.sets, team, [&](const Flush& own) {
            const Storage* const x = row + own.begin;
            const auto load = [&](int64_t i) { return x[i]; };
            const T shift = shift_of<Format>(Format::load(x[0]), own.first, [&](int n, auto add) {
                for_places<int(kShiftRows)>(OneSegment(0), n, load, add);
            });
            return moments_about<Format>(shift, own.n,
                                         [&](auto add) { for_places<8>(OneSegment(0), own.n, load, add); });
        });
        mean = found.first;
        squares = found.second;
    } else {
        squares = gather_row<JoinSums>(task.sets, team, [&](const Flush& own) -> PartialSums {
                      const Storage* const at = row + own.begin;
                      T sum{};
                      for_places<8>(
                          OneSegment(0), own.n, [&](int64_t i) { return at[i]; },
                          [&](Storage stored, int64_t, bool is_element) {
                              const T x = is_element ? Format::load(stored) : T(0);
                              sum += x * x;
                          });
                      return {merged(sum), 0};
                  }).first;
    }
    if (team.thread != 0) return {};
    const double inverse_std = inverse_deviation(squares / task.count, task.eps);
    task.statistics[team.row] = mean;
    task.statistics[task.set_count + team.row] = inverse_std;
    return coefficients_of_row<T>(mean, inverse_std, grid.centered);
}

// `N`: elements of a vector.
template <class Format, int N>
__global__ void __launch_bounds__(kMostWarps* kLanes, sizeof(typename Format::Compute) == 4 ? kResident : 2)
    normalize_rows(const __grid_constant__ NormTask task, const __grid_constant__ RowGrid grid) {
    using T = typename Format::Compute;
    FASTOPT_SHARED(Coefficients<T>[kMostTeams], all_coefficients);
    const Team team(grid);
    if (team.row >= task.set_count) return;
    const auto* const row = take_row<Format, N>(task, grid, team);
    const Coefficients<T> found = statistics_of<Format>(task, grid, team, row);
    if (team.thread == 0) all_coefficients[team.index] = found;
    team.sync();
    const Coefficients<T> of = all_coefficients[team.index];
    const T slope = T(task.negative_slope);
    const int64_t n = task.sets.inner, parameters = parameters_of_set(task, team.row);
    for (int64_t v = team.thread; v < n / N; v += team.threads) {
        T x[N];
        Stored<Format, N> stored;
        stored.load_shared(row, v * N);
        stored.unpack(x);
        normalize<Format>(task, parameters + v * N, of, task.rounds_first, x);
        activate(task.activation, slope, x);
        Stored<Format, N>::store(task.out.data, team.row * n + v * N, x);
    }
}

using Kernel = void (*)(NormTask, RowGrid);

// By DType: for single elements, and for vectors.
template <class Format>
constexpr Kernel kernels_of[2] = {normalize_rows<Format, 1>, normalize_rows<Format, kWidth<typename Format::Storage>>};
constexpr const Kernel* kernels[4] = {kernels_of<Plain<float>>, kernels_of<Plain<double>>, kernels_of<Narrow<BFloat16>>,
                                      kernels_of<Narrow<Float16>>};

}  // namespace

void norm_rows(const Stream& stream, const NormTask& task, bool centered) {
    const int64_t n = task.sets.inner, bytes = n * element_bytes(task.input.type);
    const bool vectors = bytes % int64_t(sizeof(uint4)) == 0 &&
                         all_aligned(task.input, task.summands[0], task.summands[1], task.weight, task.bias, task.out);
    const RowGrid grid = row_grid(n, vectors ? bytes : 0, centered);
    launch_rows(stream, "normalization", kernels[int(task.input.type)][vectors], task, grid, bytes);
}

}  // namespace fastopt::cuda
