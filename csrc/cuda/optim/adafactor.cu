// A step of Adafactor over matrices: several kernels, each over all tensors of one type.
#include "cuda/optim/adafactor.h"
#include "cuda/optim/adafactor_matrix.h"
#include "cuda/optim/adafactor_means.h"
#include "cuda/optim/passes.h"

namespace fastopt::cuda {
namespace {

template <class T>
void start_row_factors(const Start<MatrixTensors>& start) {
    const int threads =
        summing_threads(start.tasks, [](const Task& t) { return t.shape.count * row_threads(t.shape); });
    const auto blocks = [&](const Task& t) { return tiles_along(t.shape.count, threads / row_threads(t.shape)); };
    start("Adafactor's factors", make_row_factors<T>, blocks, threads);
}

template <class Operands>
struct UpdateMatrices {
    static void start(const Stream& stream, const Tasks& tasks) {
        using T = typename Operands::Compute;
        const Start<MatrixTensors> start{stream, tasks, fill_matrices};
        start("Adafactor's sums", measure_tiles<Operands>, tile_blocks, kTileThreads);
        start("Adafactor's means", move_means<T>, mean_blocks, kMeanThreads);
        start_row_factors<T>(start);
        start("Adafactor's squares", measure_updates<Operands>, tile_blocks, kTileThreads);
        start_scales<Adafactor>(start, [](const Task& task) { return FactoredScratch::parts_of(task.shape); });
        Tasks measured, others;
        for (const Task* task : tasks) (task->statistics != nullptr ? measured : others).push_back(task);
        const auto apply = [&](const Tasks& some, auto* kernel) {
            Start<MatrixTensors>{stream, some, fill_matrices}("Adafactor's update", kernel, tile_blocks, kTileThreads);
        };
        apply(measured, apply_updates<Operands, true>);
        apply(others, apply_updates<Operands, false>);
    }
};

}  // namespace

void AdafactorMatrix::update(const Stream& stream, const Task* const* tasks, int count) {
    for_operands<UpdateMatrices>(stream, tasks, count);
}

}  // namespace fastopt::cuda
