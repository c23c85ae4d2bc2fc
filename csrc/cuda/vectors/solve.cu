// The coefficients of a direction of L-BFGS, in one thread block.
#include <algorithm>

#include "cuda/launch.h"
#include "vectors/solve.h"

namespace fastopt::cuda {
namespace {

constexpr int kMostSolvers = 256, kWarp = 32;

// `keeps`: there is shared memory for the coefficients, which every step of both loops reads and writes.
__global__ void __launch_bounds__(kMostSolvers) solve_in_block(const __grid_constant__ History history, bool keeps) {
    FASTOPT_DYNAMIC_SHARED(double, kept);
    const auto for_each = [](int64_t n, auto f) {
        for (int64_t i = threadIdx.x; i < n; i += blockDim.x) f(i);
        __syncthreads();
    };
    History own = history;
    if (keeps) own.coefficients = kept;
    solve(own, for_each);
    if (keeps)
        for (int64_t i = threadIdx.x; i <= 2 * own.count; i += blockDim.x) history.coefficients[i] = kept[i];
}

}  // namespace

void solve_history(const Stream& stream, const History& history) {
    const size_t bytes = static_cast<size_t>(1 + 2 * history.count) * sizeof(double);
    const bool keeps = bytes + kStaticBytes <= kSharedUnasked;
    const int threads = static_cast<int>(std::min<int64_t>(history.count + kWarp - 1, kMostSolvers)) / kWarp * kWarp;
    launch(stream, "coefficients", solve_in_block, {1, threads, keeps ? bytes : 0}, history, keeps);
}

}  // namespace fastopt::cuda
