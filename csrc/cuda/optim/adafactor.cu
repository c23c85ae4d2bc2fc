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

// The operands whose threads have two lanes of full rows: half types, of which a thread would else load two bytes.
template <class Operands>
struct InPairs {
    using type = Operands;
};
template <class Half>
struct InPairs<Typed<Narrow<Half>>> {
    using type = Typed<Narrow<Half>, 2>;
};

inline bool has_pairs(const Task& task) {
    constexpr uintptr_t kPair = 4;  // bytes
    const auto address = [](const Array& array) { return reinterpret_cast<uintptr_t>(array.data); };
    return task.shape.columns % kTileColumns == 0 && (address(task.param) | address(task.grad)) % kPair == 0;
}

template <class Operands>
struct UpdateMatrices {
    using Pairs = typename InPairs<Operands>::type;
    using Walk = void (*)(MatrixTensors);

    static void start(const Stream& stream, const Tasks& tasks) {
        using T = typename Operands::Compute;
        const Start<MatrixTensors> start{stream, tasks, fill_matrices};
        walk(stream, tasks, "Adafactor's sums", measure_tiles<Operands>, measure_tiles<Pairs>);
        start("Adafactor's means", move_means<T>, mean_blocks, kMeanThreads);
        start_row_factors<T>(start);
        walk(stream, tasks, "Adafactor's squares", measure_updates<Operands>, measure_updates<Pairs>);
        start_scales<Adafactor>(start, [](const Task& task) { return FactoredScratch::parts_of(task.shape); });
        Tasks measured, others;
        for (const Task* task : tasks) (task->statistics != nullptr ? measured : others).push_back(task);
        walk(stream, others, "Adafactor's update", apply_updates<Operands, false>, apply_updates<Pairs, false>);
        Start<MatrixTensors>{stream, measured, fill_matrices}("Adafactor's update", apply_updates<Operands, true>,
                                                              tile_blocks<1>, kTileThreads);
    }

   private:
    static void walk(const Stream& stream, const Tasks& tasks, const char* name, Walk single, Walk paired) {
        Tasks singles, pairs;
        for (const Task* task : tasks) (Pairs::kWidth > 1 && has_pairs(*task) ? pairs : singles).push_back(task);
        Start<MatrixTensors>{stream, singles, fill_matrices}(name, single, tile_blocks<1>, kTileThreads);
        Start<MatrixTensors>{stream, pairs, fill_matrices}(name, paired, tile_blocks<Pairs::kWidth>, kTileThreads);
    }
};

}  // namespace

void AdafactorMatrix::update(const Stream& stream, const Task* const* tasks, int count) {
    for_operands<UpdateMatrices>(stream, tasks, count);
}

}  // namespace fastopt::cuda
