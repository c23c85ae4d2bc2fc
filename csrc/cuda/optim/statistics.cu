// The rows of a monitor's table, from what the kernels of a step have left of each part.
#include <limits>

#include "cuda/optim/scalars.h"
#include "cuda/optim/tensors.h"
#include "cuda/warp.h"
#include "rules/factored.h"

namespace fastopt::cuda {
namespace {

constexpr int kClearing = 256;

// A step that is skipped leaves the table alone.
__global__ void __launch_bounds__(kClearing)
    clear_rows(double* table, int64_t numbers, double nothing, DeviceInputs inputs) {
    const int64_t i = int64_t(blockIdx.x) * kClearing + threadIdx.x;
    if (i < numbers && !skips(inputs)) table[i] = nothing;
}

// Arrays: parts, row. A block has a tensor, a warp one of the statistics.
__global__ void __launch_bounds__(kStatistics* kLanes) sum_parts(const __grid_constant__ Tensors<2> tensors) {
    const int tensor = tensor_of_block(tensors);
    if (tensors.scalars[tensor]->skip != 0) return;
    const int statistic = int(threadIdx.x) / kLanes, lane = int(threadIdx.x) % kLanes;
    const int64_t parts = tensors.n[tensor];
    const double* const gathered = static_cast<const double*>(tensors.arrays[tensor][0]) + statistic * parts;
    const auto value = [](double part) { return part; };
    double sum = gather_lane(gathered, parts, lane, kLanes, 0, value, Squares::join);
    sum = merge_lanes(sum, Squares::join);
    if (lane == 0) static_cast<double*>(tensors.arrays[tensor][1])[statistic] = sum;
}

}  // namespace

void write_statistics(const Stream& stream, const Task* const* tasks, int count, double* table, int64_t rows,
                      const DeviceInputs& inputs) {
    const int64_t numbers = kStatistics * rows;
    launch(stream, "statistics", clear_rows, {tiles_along(numbers, kClearing), kClearing}, table, numbers,
           std::numeric_limits<double>::quiet_NaN(), inputs);
    const auto fill = [](Tensors<2>& tensors, int i, const Task& task) {
        tensors.arrays[i][0] = task.statistics;
        tensors.arrays[i][1] = task.row;
        tensors.n[i] = task.n > 0 ? parts_of(task) : 0;
    };
    for_tables<Tensors<2>>(
        tasks, count, [](const Task&) { return 1; }, fill,
        [&](const Tensors<2>& tensors, int64_t blocks) {
            launch(stream, "statistics", sum_parts, {blocks, kStatistics * kLanes}, tensors);
        });
}

}  // namespace fastopt::cuda
