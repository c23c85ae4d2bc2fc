// What the engine, the kernels and the rules agree on: plain data, no functions, so that a header
// seen by every ISA file cannot leak code compiled for one CPU into another.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__CUDACC__)
#define FASTOPT_HD __host__ __device__ __forceinline__
#else
#define FASTOPT_HD inline __attribute__((always_inline))
#endif

// Declares a struct of scalars of type T and the names Python uses for them, in one place.
#define FASTOPT_SCALARS(...) \
    template <class T>       \
    struct Scalars {         \
        T __VA_ARGS__;       \
    };                       \
    static constexpr const char* scalar_names = #__VA_ARGS__

namespace fastopt {

constexpr int kMaxStates = 4;
constexpr int kMaxCarried = 2;
constexpr int kMaxScalars = 12;
constexpr int kMaxPasses = 3;

// Elements a worker takes at a time: 64 KiB of float32 per operand.
constexpr int64_t kTile = 16384;

// Elements of a sum that go through lanes of their own: few enough to keep a GPU busy. Its shape, and with it its bits,
// depends on nothing else.
constexpr int64_t kSumChunk = 4096;

// Elements of a block that stays in L1, with the buffers of five half-precision operands in 32 KiB.
constexpr int kBlock = 1024;

enum class DType : uint8_t { f32, f64, bf16, f16 };

// Where memory is, where it is not the index of a CUDA device.
constexpr int kHost = -1;

// A flat, dense run of elements of one tensor.
struct Array {
    void* data;
    DType type;
};

// A contiguous tensor as matrices over its last two dimensions.
struct Matrices {
    int64_t count, rows, columns;
};

// The scalars of one (parameter group, step count), in double; kernels round them once.
struct Constants {
    int index;  // among those of the step
    double prologue[kMaxScalars];
    double rule[kMaxScalars];
    double carried[kMaxCarried];  // values of the carried states after the step
    double max_grad_norm;         // negative where the group is not clipped
    bool unscales;                // the step writes unscaled gradients back
};

// Where the prologue's scalars have what the engine itself needs of them.
constexpr int kLossScale = 0, kGradFactor = 1;

struct ScalarSet;  // cuda/engine.h

// One parameter's share of a step. A kernel handles the units [begin, end) of it: its elements, or
// the tiles of its matrices.
struct Task;
using Kernel = void (*)(const Task&, int64_t begin, int64_t end);

// One walk over all units of all tensors; then, once per tensor, what was gathered is combined.
struct Pass {
    Kernel kernel;
    void (*combine)(const Task&);  // null where there is nothing to combine
};

struct Task {
    const Pass* passes;
    int pass_count;
    int rule;    // row in every table of rules
    int device;  // of all its memory
    const Constants* constants;
    const ScalarSet* scalars;  // on a device: the constants there
    int64_t n;
    Array param, grad;  // grad: no data where the rule reads none
    Array states[kMaxStates];
    Matrices shape;    // of a factored rule; otherwise no matrices
    double* scratch;   // of a rule with several passes
    double* partials;  // of a reduction: one per kSumChunk elements
};

// A parameter's 'step' tensor and other scalars among its states, no data where the rule has none,
// and the count the first is to get.
struct Counter {
    Array step;
    Array carried[kMaxCarried];
    int64_t t;
};

// What an ISA file exports: one row per rule.
struct RuleEntry {
    const char* name;
    const char* scalar_names;
    int states;
    bool reads_grad;
    bool factored;  // units are tiles of matrices, states are their rows and columns
    int passes;
    Pass f32[kMaxPasses];  // float32, bfloat16 and float16 parameters: arithmetic in float32
    Pass f64[kMaxPasses];
};

// A sum, or the like, over a tensor's elements: one partial result per kSumChunk of them.
struct ReductionEntry {
    const char* name;
    double (*norm)(const double* partials, int64_t n, double exponent);  // of all tensors' partial results
    Kernel f32;
    Kernel f64;
};

struct DropoutTable;  // random/task.h
struct NormTable;     // norm/task.h

struct KernelTable {
    const char* isa;  // what this table was compiled as
    const RuleEntry* rules;
    int rule_count;
    const ReductionEntry* reductions;
    int reduction_count;
    const char* prologue_names;
    const DropoutTable* dropout;
    const NormTable* norm;
};

}  // namespace fastopt
