// A step of Adafactor: several kernels, each over all tensors of one type.
#include <algorithm>
#include <vector>

#include "cuda/optim/adafactor.h"
#include "cuda/optim/adafactor_matrix.h"
#include "cuda/optim/adafactor_means.h"
#include "cuda/optim/adafactor_vector.h"

namespace fastopt::cuda {
namespace {

using Tasks = std::vector<const Task*>;

// Starts kernels over the same tasks, in tables of the kind they take.
template <class Table>
struct Start {
    const Stream& stream;
    const Tasks& tasks;
    void (*fill)(Table&, int, const Task&);

    template <class BlocksOf>
    void operator()(const char* name, void (*kernel)(Table), BlocksOf blocks_of, int threads) const {
        for_tables<Table>(
            tasks.data(), static_cast<int>(tasks.size()), blocks_of, fill,
            [&](const Table& tensors, int64_t blocks) { launch(stream, name, kernel, {blocks, threads}, tensors); });
    }
};

// Threads of a block that sums up: what the task that needs most of them can use, and whole warps.
template <class Needed>
int summing_threads(const Tasks& tasks, Needed needed) {
    int threads = kLanes;
    for (const Task* task : tasks) threads = std::max(threads, power_of_two(needed(*task), kSummers));
    return threads;
}

template <class Table, class PartsOf>
void start_step_sizes(const Start<Table>& start, PartsOf parts_of) {
    const auto one_block = [](const Task&) { return 1; };
    start("Adafactor's step size", make_step_sizes<Table>, one_block, summing_threads(start.tasks, parts_of));
}

template <class T>
void start_row_factors(const Start<MatrixTensors>& start) {
    const int threads =
        summing_threads(start.tasks, [](const Task& t) { return t.shape.count * row_threads(t.shape); });
    const auto blocks = [&](const Task& t) { return tiles_along(t.shape.count, threads / row_threads(t.shape)); };
    start("Adafactor's factors", make_row_factors<T>, blocks, threads);
}

template <class Format>
void measure_vectors(const Stream& stream, const Tasks& tasks) {
    const Start<VectorTensors> start{stream, tasks, fill_vectors};
    start("Adafactor's sums", measure_chunks<Format>, chunk_blocks, kVectorWarps * kLanes);
    start_step_sizes(start, [](const Task& task) { return VectorScratch::parts_of(task.n); });
}

template <class Format>
void update_matrices(const Stream& stream, const Tasks& tasks) {
    using T = typename Format::Compute;
    const Start<MatrixTensors> start{stream, tasks, fill_matrices};
    start("Adafactor's sums", measure_tiles<Format>, tile_blocks, kTileThreads);
    start("Adafactor's means", move_means<T>, mean_blocks, kMeanThreads);
    start_row_factors<T>(start);
    start("Adafactor's squares", measure_updates<Format>, tile_blocks, kTileThreads);
    start_step_sizes(start, [](const Task& task) { return FactoredScratch::parts_of(task.shape); });
    start("Adafactor's update", apply_updates<Format>, tile_blocks, kTileThreads);
}

using ByType = void (*)(const Stream&, const Tasks&);

// `kernels` are by DType.
void for_types(const Stream& stream, const Task* const* tasks, int count, const ByType (&kernels)[4]) {
    Tasks of_type[4];
    for (int i = 0; i < count; ++i) of_type[int(tasks[i]->param.type)].push_back(tasks[i]);
    for (int type = 0; type < 4; ++type)
        if (!of_type[type].empty()) kernels[type](stream, of_type[type]);
}

}  // namespace

void AdafactorVector::update(const Stream& stream, const Task* const* tasks, int count) {
    for_types(stream, tasks, count,
              {measure_vectors<Plain<float>>, measure_vectors<Plain<double>>, measure_vectors<Narrow<BFloat16>>,
               measure_vectors<Narrow<Float16>>});
    Elementwise<VectorApply>::update(stream, tasks, count);
}

void AdafactorMatrix::update(const Stream& stream, const Task* const* tasks, int count) {
    for_types(stream, tasks, count,
              {update_matrices<Plain<float>>, update_matrices<Plain<double>>, update_matrices<Narrow<BFloat16>>,
               update_matrices<Narrow<Float16>>});
}

}  // namespace fastopt::cuda
