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
template <size_t kBytes>
struct KnownSets {
    static constexpr int kMax = int((kBytes - 128) / sizeof(Constants));
    Constants known[kMax];
    int count;
    DeviceInputs inputs;
    ScalarSet* sets;
};

template <size_t kBytes>
struct CountedSets {
    static constexpr int kMax = int((kBytes - 128 - sizeof(Program) - sizeof(Constants)) / sizeof(Counter));
    Program program;
    Array learning_rate;
    Constants common;
    Counter counters[kMax];
    int count;
    DeviceInputs inputs;
    const double* shared;
    ScalarSet* sets;
};
static_assert(sizeof(KnownSets<kParameterBytes>) <= kParameterBytes);
static_assert(sizeof(CountedSets<kParameterBytes>) <= kParameterBytes);

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

template <size_t kBytes>
__global__ void __launch_bounds__(kScalarThreads) write_known_sets(const __grid_constant__ KnownSets<kBytes> sets) {
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

template <size_t kBytes>
__global__ void __launch_bounds__(kScalarThreads)
    evaluate_counted_sets(const __grid_constant__ CountedSets<kBytes> sets) {
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

inline Grid grid_of(int count) { return {(count + kScalarThreads - 1) / kScalarThreads, kScalarThreads}; }

// What a launch does not use of its parameters is neither set nor read.
template <size_t kBytes>
void start_known(const Stream& stream, const Constants* known, int count, const DeviceInputs& inputs, ScalarSet* sets) {
    KnownSets<kBytes> some;
    std::copy_n(known, count, some.known);
    some.count = count;
    some.inputs = inputs;
    some.sets = sets;
    launch(stream, "scalars", write_known_sets<kBytes>, grid_of(count), some);
}

template <size_t kBytes>
void start_counted(const Stream& stream, const Program& program, const Array& learning_rate, const Constants& common,
                   const Counter* counters, int count, const DeviceInputs& inputs, const double* shared,
                   ScalarSet* sets) {
    CountedSets<kBytes> some;
    some.program = program;
    some.learning_rate = learning_rate;
    some.common = common;
    std::copy_n(counters, count, some.counters);
    some.count = count;
    some.inputs = inputs;
    some.shared = shared;
    some.sets = sets;
    launch(stream, "counted scalars", evaluate_counted_sets<kBytes>, grid_of(count), some);
}

}  // namespace

void upload_scalars(const Stream& stream, const Constants* known, int count, const DeviceInputs& inputs,
                    ScalarSet* sets) {
    in_turns(count, KnownSets<kParameterBytes>::kMax, [&](int first, int n) {
        const bool few = n <= KnownSets<kFewParameterBytes>::kMax;
        (few ? start_known<kFewParameterBytes> : start_known<kParameterBytes>)(stream, known + first, n, inputs,
                                                                               sets + first);
    });
}

void evaluate_scalars(const Stream& stream, const Program& program, const Array& learning_rate, const Constants& common,
                      const Counter* counters, int count, const DeviceInputs& inputs, const double* shared,
                      ScalarSet* sets) {
    in_turns(count, CountedSets<kParameterBytes>::kMax, [&](int first, int n) {
        const bool few = n <= CountedSets<kFewParameterBytes>::kMax;
        (few ? start_counted<kFewParameterBytes> : start_counted<kParameterBytes>)(stream, program, learning_rate,
                                                                                   common, counters + first, n, inputs,
                                                                                   shared, sets + first);
    });
}

}  // namespace fastopt::cuda
