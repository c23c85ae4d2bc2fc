// What the engine, the kernels and the rules agree on. Plain data without functions, so that a header that every
// ISA's file includes cannot leak code compiled for one CPU into another.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__CUDACC__)
#define FASTOPT_HD __host__ __device__ __forceinline__
#else
#define FASTOPT_HD inline __attribute__((always_inline))
#endif

// Declares a struct of scalars of type T together with the names Python uses for them.
#define FASTOPT_SCALARS(...) \
    template <class T>       \
    struct Scalars {         \
        T __VA_ARGS__;       \
    };                       \
    static constexpr const char* scalar_names = #__VA_ARGS__

namespace fastopt {

constexpr int kMaxStates = 4;
constexpr int kMaxCarried = 2;
constexpr int kShared = 4;  // numbers that all groups share, of a grouped rule
constexpr int kMaxScalars = 12;
constexpr int kMaxPasses = 3;
constexpr int kMaskedPasses = 2;

// Elements a worker takes at a time: 64 KiB of float32 per operand.
constexpr int64_t kTile = 16384;

// Elements of a chunk, which has its own lanes: few enough to keep a GPU busy. A sum's shape, and so its bits, depends
// on nothing else.
constexpr int64_t kSumChunk = 4096;

// What a monitored step gathers over each part of a tensor: a chunk, or a tile of its matrices. The squares are those
// of gradient, parameter and update, the number is that of the gradient's elements that are not finite.
enum Statistic { kGradSquares, kParamSquares, kUpdateSquares, kNonFinite, kStatistics };

// Elements of a block that stays in L1: the buffers of five half-precision operands fit into 32 KiB.
constexpr int kBlock = 1024;

// The integers hold floats in another form (math/codes.h, math/rounding.h).
enum class DType : uint8_t { f32, f64, bf16, f16, i8, u8, i16 };

// The device number of the CPU's memory; other numbers are indices of CUDA devices.
constexpr int kHost = -1;

// A flat, dense run of elements of one tensor.
struct Array {
    void* data;
    DType type;
};

// A contiguous tensor, seen as matrices over its last two dimensions.
struct Matrices {
    int64_t count, rows, columns;
};

// The scalars of one (parameter group, step count) in double; kernels round them once.
struct Constants {
    int index;  // among the constants of the step
    double prologue[kMaxScalars];
    double rule[kMaxScalars];
    double carried[kMaxCarried];       // values of the carried states after the step
    double max_grad_norm;              // negative where the group is not clipped
    double average_weight;             // weight of the new parameter in its average
    uint64_t seed;                     // for random rounding
    uint32_t step;                     // the step count, for random rounding
    bool random_param, random_states;  // whether half types are rounded at random
    bool unscales;                     // the step writes the unscaled gradients back
    bool masks, decays_cautiously;     // the update is cautious, the decay is (rules/caution.h)
};

// Indices of the two prologue scalars that the engine itself reads.
constexpr int kLossScale = 0, kGradFactor = 1;

struct ScalarSet;  // cuda/engine.h

// One parameter's share of a step. A kernel handles its units [begin, end): elements, or tiles of its matrices.
struct Task;
using Kernel = void (*)(const Task&, int64_t begin, int64_t end);

// One walk over all units of all tensors; afterwards `combine` joins the partial results of each tensor.
struct Pass {
    Kernel kernel;
    void (*combine)(const Task&);  // null where there is nothing to combine
};

// Makes the scale of all tasks of a step from their sums, and moves on the shared numbers.
using JoinGroup = void (*)(const Task* const* tasks, int64_t count);

// How a parameter is kept in addition to its own memory, and its states other than as numbers. An option that is off
// has no data.
struct Storage {
    Array master;         // what is updated: float32, or (i16) the lower halves of bits; the parameter has the upper
    Array average, copy;  // of the updated parameter
    float* scales[kMaxStates];  // of a coded state: one for every kCodeBlock elements
    uint32_t number;            // for random rounding: the parameter's number in the optimizer,
    int64_t first;              // and the first of its elements that this process has
};

struct Task {
    const Pass* passes;
    int pass_count;
    int rule;    // row in every table of rules
    int device;  // where all its memory is
    const Constants* constants;
    const ScalarSet* scalars;  // the same constants in the device's memory
    int64_t n;
    Array param, grad;  // grad has no data where the rule reads none
    Array states[kMaxStates];
    const Storage* storage;         // null where everything is kept as usual
    const Storage* device_storage;  // the same in the device's memory
    Matrices shape;                 // matrices of a factored rule; otherwise empty
    double* scratch;                // for a rule with several passes
    double* partials;               // for a reduction: one per kSumChunk elements
    double* shared;                 // of a grouped rule: the numbers that all groups share,
    double* sums;                   // and room for two sums of each task of the step, and the scale
    double* statistics;             // of a monitored step: kStatistics for each part of the tensor; otherwise null
    double* row;                    // and its sums, in the monitor's table
};

// A parameter's 'step' tensor and its other scalar states, without data where the rule has none, and the count that
// 'step' will hold.
struct Counter {
    Array step;
    Array carried[kMaxCarried];
    int64_t t;
};

// What an ISA's file exports: one row per rule.
struct RuleEntry {
    const char* name;
    const char* scalar_names;
    int states;
    bool reads_grad;
    bool factored;  // units are tiles of matrices; states belong to their rows and columns
    int passes;
    Pass f32[kMaxPasses];  // float32, bfloat16 and float16 parameters: arithmetic in float32
    Pass f64[kMaxPasses];
    Pass masked_f32[kMaskedPasses];  // of a cautious update; null where the rule has other passes than one
    Pass masked_f64[kMaskedPasses];
    JoinGroup join_group;  // of a grouped rule, between its passes; otherwise null
};

// A sum, or a similar reduction, over a tensor's elements: one partial result per kSumChunk elements.
struct ReductionEntry {
    const char* name;
    double (*norm)(const double* partials, int64_t n, double exponent);  // takes the partial results of all tensors
    Kernel f32;
    Kernel f64;
};

struct DropoutTable;  // random/task.h
struct NormTable;     // norm/task.h
struct VectorTable;   // vectors/task.h

struct KernelTable {
    const char* isa;  // the ISA that this table was compiled for
    const RuleEntry* rules;
    int rule_count;
    const ReductionEntry* reductions;
    int reduction_count;
    const char* prologue_names;
    const DropoutTable* dropout;
    const NormTable* norm;
    const VectorTable* vectors;
};

}  // namespace fastopt
