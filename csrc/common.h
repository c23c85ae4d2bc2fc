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
constexpr int kMaxScalars = 16;

enum class DType : uint8_t { f32, f64, bf16, f16 };

// A flat, dense run of elements of one tensor.
struct Array {
    void* data;
    DType type;
};

// The scalars of one (parameter group, step count), in double; kernels round them once.
struct Constants {
    double prologue[kMaxScalars];
    double rule[kMaxScalars];
    bool unscales;  // the step writes unscaled gradients back
};

// One parameter's share of a step.
struct Task;
using Kernel = void (*)(const Task&, int64_t begin, int64_t end);

struct Task {
    Kernel kernel;
    const Constants* constants;
    int64_t n;
    Array param, grad;
    Array states[kMaxStates];
};

// A parameter's 'step' tensor, no data where the rule does not count, and the value it is to get.
struct Counter {
    Array step;
    int64_t t;
};

// What an ISA file exports: one row per rule.
struct RuleEntry {
    const char* name;
    const char* scalar_names;
    int states;
    Kernel f32;  // float32, bfloat16 and float16 parameters: arithmetic in float32
    Kernel f64;
};

struct KernelTable {
    const char* isa;  // what this table was compiled as
    const RuleEntry* rules;
    int rule_count;
    const char* prologue_names;
};

}  // namespace fastopt
