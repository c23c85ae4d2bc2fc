// What rules of several passes share on a device: launching kernels, each over all tensors of one type, and computing
// the scale from two sums of squares.
#pragma once

#include <algorithm>
#include <vector>

#include "cuda/optim/group_sum.h"
#include "cuda/optim/kept.h"
#include "cuda/optim/operands.h"
#include "cuda/optim/scalars.h"
#include "cuda/optim/tensors.h"
#include "rules/factored.h"

namespace fastopt::cuda {
namespace {

using Tasks = std::vector<const Task*>;

// Launches kernels over the same tasks, in tables of the type that they take.
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

// Threads of a summing block, in whole warps: as many as the largest task can use.
template <class Needed>
int summing_threads(const Tasks& tasks, Needed needed) {
    int threads = kLanes;
    for (const Task* task : tasks) threads = std::max(threads, power_of_two(needed(*task), kSummers));
    return threads;
}

// A block computes a tensor's scale from the squares of its parts. Tables have scratch_of() and elements_of().
template <class Rule, class Table>
__global__ void __launch_bounds__(kSummers) make_scales(const __grid_constant__ Table tensors) {
    FASTOPT_SHARED(double[2 * kTeams], lanes);
    const int tensor = tensor_of_block(tensors);
    const ScalarSet& set = *tensors.scalars[tensor];
    if (set.skip != 0) return;
    const StepScratch scratch = scratch_of(tensors, tensor);
    const int threads = int(blockDim.x);
    const double param_squares = group_sum(scratch.first_sums, scratch.parts, true, threads, lanes);
    const double measured_squares = group_sum(scratch.second_sums, scratch.parts, true, threads, lanes + kTeams);
    if (threadIdx.x != 0) return;
    *scratch.scale = Rule::scale(param_squares, measured_squares, elements_of(tensors, tensor),
                                 scalars_from<Rule::template Scalars>(set.rule));
}

template <class Rule, class Table, class PartsOf>
void start_scales(const Start<Table>& start, PartsOf parts_of) {
    const auto one_block = [](const Task&) { return 1; };
    start("scale", make_scales<Rule, Table>, one_block, summing_threads(start.tasks, parts_of));
}

using ByOperands = void (*)(const Stream&, const Tasks&);

// Steps<Operands> is called once for each kind of operands that the tasks have.
template <template <class> class Steps>
void for_operands(const Stream& stream, const Task* const* tasks, int count) {
    constexpr int kSpecial = 4, kKinds = 6;  // the floating types, and special tasks in float32 and float64
    static constexpr ByOperands start[kKinds] = {
        Steps<Typed<Plain<float>>>::start,    Steps<Typed<Plain<double>>>::start, Steps<Typed<Narrow<BFloat16>>>::start,
        Steps<Typed<Narrow<Float16>>>::start, Steps<Kept<float>>::start,          Steps<Kept<double>>::start};
    Tasks of_kind[kKinds];
    for (int i = 0; i < count; ++i) {
        const DType type = tasks[i]->param.type;
        of_kind[is_special(*tasks[i]) ? kSpecial + (type == DType::f64) : int(type)].push_back(tasks[i]);
    }
    for (int kind = 0; kind < kKinds; ++kind)
        if (!of_kind[kind].empty()) start[kind](stream, of_kind[kind]);
}

}  // namespace
}  // namespace fastopt::cuda
