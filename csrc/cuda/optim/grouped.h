// Grouped rules on a device: between the two passes of a scaled rule, the sums of all tensors are joined there.
#pragma once

#include "cuda/optim/scaled.h"

namespace fastopt::cuda {
namespace {

// What is made of a tensor's sums: their places among those of all tensors, the shared numbers, its scratch memory.
using SumTensors = Tensors<4>;

// A block sums the chunks of a tensor, as make_scales() does.
template <class Rule>
__global__ void __launch_bounds__(kSummers) sum_chunks(const __grid_constant__ SumTensors tensors) {
    FASTOPT_SHARED(double[2 * kTeams], lanes);
    const int tensor = tensor_of_block(tensors);
    const ScalarSet& set = *tensors.scalars[tensor];
    if (set.skip != 0) return;
    const StepScratch scratch = scratch_of(tensors, tensor);
    const int threads = int(blockDim.x);
    const double first = group_sum(scratch.first_sums, scratch.parts, true, threads, lanes);
    const double second = group_sum(scratch.second_sums, scratch.parts, true, threads, lanes + kTeams);
    if (threadIdx.x != 0) return;
    void* const* const arrays = tensors.arrays[tensor];
    *static_cast<double*>(arrays[0]) =
        Rule::weighted(first, static_cast<const double*>(arrays[2]), scalars_from<Rule::template Scalars>(set.rule));
    *static_cast<double*>(arrays[1]) = second;
}

struct AllSums {
    double *sums, *shared;
    int64_t count;
    const ScalarSet* scalars;
};

// One block makes the scale of all tensors, after their sums.
template <class Rule>
__global__ void __launch_bounds__(kSummers) join_sums(const __grid_constant__ AllSums all) {
    FASTOPT_SHARED(double[2 * kTeams], lanes);
    if (all.scalars->skip != 0) return;
    const int threads = int(blockDim.x);
    const double first = group_sum(all.sums, all.count, true, threads, lanes);
    const double second = group_sum(all.sums + all.count, all.count, true, threads, lanes + kTeams);
    if (threadIdx.x == 0)
        all.sums[2 * all.count] =
            Rule::scale(first, second, all.shared, scalars_from<Rule::template Scalars>(all.scalars->rule));
}

template <class Rule>
struct Grouped {
    // `tasks` are all of a step.
    static void update(const Stream& stream, const Task* const* tasks, int count) {
        for_operands<Measure>(stream, tasks, count);
        join(stream, tasks, count);
        std::vector<Task> scaled;
        std::vector<const Task*> all;
        for (int i = 0; i < count; ++i) {
            scaled.push_back(*tasks[i]);
            scaled.back().scratch = tasks[i]->sums + 2 * count;  // the scale, with which scratch memory begins
        }
        for (const Task& task : scaled) all.push_back(&task);
        Elementwise<GroupedApply<Rule>>::update(stream, all.data(), count);
    }

   private:
    template <class Operands>
    struct Measure {
        static void start(const Stream& stream, const Tasks& tasks) {
            start_chunks<Rule, GroupedMeasure<Rule>, Operands>(stream, tasks);
        }
    };

    static void join(const Stream& stream, const Task* const* tasks, int count) {
        const Tasks all(tasks, tasks + count);
        double* const sums = all[0]->sums;
        int place = 0;  // tables are filled in the order of the tasks
        const auto fill = [&](SumTensors& tensors, int i, const Task& task) {
            void* const arrays[] = {sums + place, sums + count + place, task.shared, task.scratch};
            std::copy(std::begin(arrays), std::end(arrays), tensors.arrays[i]);
            tensors.n[i] = task.n;
            ++place;
        };
        const int threads = summing_threads(all, [](const Task& task) { return ScaledScratch::parts_of(task.n); });
        for_tables<SumTensors>(
            tasks, count, [](const Task&) { return 1; }, fill,
            [&](const SumTensors& tensors, int64_t blocks) {
                launch(stream, "sums of tensors", sum_chunks<Rule>, {blocks, threads}, tensors);
            });
        launch(stream, "sums of groups", join_sums<Rule>, {1, std::max(kLanes, power_of_two(count, kSummers))},
               AllSums{sums, all[0]->shared, count, all[0]->scalars});
    }
};

}  // namespace
}  // namespace fastopt::cuda
