// Brings the scalars of a step to a device, and completes them with what only the device knows: GradScaler's scale and
// found_inf, the norm for clipping, and, in a captured step, its counters.
#include <algorithm>

#include "cuda/launch.h"
#include "cuda/optim/scalars.h"
#include "rules/program.h"
#include "rules/prologue.h"

namespace fastopt::cuda {
namespace {

constexpr int kScalarThreads = 128;

// Kernel parameters, with as many sets as a launch has room for.
struct KnownSets {
    static constexpr int kMax = int((kParameterBytes - 128) / sizeof(Constants));
    Constants known[kMax];
    int count;
    DeviceInputs inputs;
    ScalarSet* sets;
};

struct CountedSets {
    static constexpr int kMax = int((kParameterBytes - 128 - sizeof(Program) - sizeof(Constants)) / sizeof(Counter));
    Program program;
    Array learning_rate;
    Constants common;
    Counter counters[kMax];
    int count;
    DeviceInputs inputs;
    const double* shared;
    ScalarSet* sets;
};
static_assert(sizeof(KnownSets) <= kParameterBytes && sizeof(CountedSets) <= kParameterBytes);

__device__ __forceinline__ void write(ScalarSet& set, const Constants& known, const DeviceInputs& inputs) {
    for (int k = 0; k < kMaxScalars; ++k) {
        double common = known.prologue[k];
        if (k == kLossScale && inputs.loss_scale != nullptr) common = double(*inputs.loss_scale);
        if (k == kGradFactor && inputs.norm != nullptr && known.max_grad_norm >= 0)
            common = Prologue::clipped(common, *inputs.norm, known.max_grad_norm);
        set.prologue[k] = common;
        set.rounded_prologue[k] = float(common);
        set.rule[k] = known.rule[k];
        set.rounded_rule[k] = float(known.rule[k]);
    }
    set.average_weight = known.average_weight;
    set.seed = known.seed;
    set.step = known.step;
    set.random_param = known.random_param;
    set.random_states = known.random_states;
    set.masks = known.masks;
    set.decays_cautiously = known.decays_cautiously;
    set.skip = skips(inputs);
}

__global__ void __launch_bounds__(kScalarThreads) write_known_sets(const __grid_constant__ KnownSets sets) {
    const int i = int(blockIdx.x * kScalarThreads + threadIdx.x);
    if (i >= sets.count) return;
    write(sets.sets[i], sets.known[i], sets.inputs);
}

__device__ __forceinline__ double read_number(const Array& number) {
    if (number.data == nullptr) return 0;
    return number.type == DType::f32 ? double(*static_cast<const float*>(number.data))
                                     : *static_cast<const double*>(number.data);
}

__device__ __forceinline__ void write_number(const Array& number, double value) {
    if (number.data == nullptr) return;
    if (number.type == DType::f32)
        *static_cast<float*>(number.data) = float(value);
    else
        *static_cast<double*>(number.data) = value;
}

__global__ void __launch_bounds__(kScalarThreads) evaluate_counted_sets(const __grid_constant__ CountedSets sets) {
    const int i = int(blockIdx.x * kScalarThreads + threadIdx.x);
    if (i >= sets.count) return;
    const Counter& counter = sets.counters[i];
    double inputs[kInputs] = {read_number(counter.step) + 1, 0, 0, read_number(sets.learning_rate)};
    for (int k = 0; k < kMaxCarried; ++k) inputs[1 + k] = read_number(counter.carried[k]);
    for (int k = 0; k < kShared && sets.shared != nullptr; ++k) inputs[2 + kMaxCarried + k] = sets.shared[k];
    Constants constants = sets.common;
    evaluate(sets.program, inputs, constants);
    constants.step = uint32_t(int64_t(inputs[0]));
    write(sets.sets[i], constants, sets.inputs);
    if (skips(sets.inputs)) return;
    write_number(counter.step, inputs[0]);
    for (int k = 0; k < kMaxCarried; ++k) write_number(counter.carried[k], constants.carried[k]);
}

}  // namespace

void upload_scalars(const Stream& stream, const Constants* known, int count, const DeviceInputs& inputs,
                    ScalarSet* sets) {
    in_turns(count, KnownSets::kMax, [&](int first, int n) {
        KnownSets some{};
        std::copy_n(known + first, n, some.known);
        some.count = n;
        some.inputs = inputs;
        some.sets = sets + first;
        launch(stream, "scalars", write_known_sets, {(n + kScalarThreads - 1) / kScalarThreads, kScalarThreads}, some);
    });
}

void evaluate_scalars(const Stream& stream, const Program& program, const Array& learning_rate, const Constants& common,
                      const Counter* counters, int count, const DeviceInputs& inputs, const double* shared,
                      ScalarSet* sets) {
    in_turns(count, CountedSets::kMax, [&](int first, int n) {
        CountedSets some{program, learning_rate, common, {}, n, inputs, shared, sets + first};
        std::copy_n(counters + first, n, some.counters);
        launch(stream, "counted scalars", evaluate_counted_sets,
               {(n + kScalarThreads - 1) / kScalarThreads, kScalarThreads}, some);
    });
}

}  // namespace fastopt::cuda
