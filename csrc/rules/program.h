// The scalars of a rule as a program: if the step counter is on a device, scalars that depend on it are computed there.
// Python records the operations of its own definitions (python/fastopt/optim/_program.py).
#pragma once

#include "math/ieee.h"

// Every operation: its name in Python, the number of its operands, its value. True is 1, false is 0.
#define FASTOPT_OPERATIONS(OPERATION)       \
    OPERATION(add, 2, a + b)                \
    OPERATION(subtract, 2, a - b)           \
    OPERATION(multiply, 2, (a * b))         \
    OPERATION(divide, 2, a / b)             \
    OPERATION(power, 2, libm_pow(a, b))     \
    OPERATION(less, 2, a < b ? 1.0 : 0.0)   \
    OPERATION(equal, 2, a == b ? 1.0 : 0.0) \
    OPERATION(select, 3, a != 0 ? b : c)

namespace fastopt {

// A program's inputs: t, the carried scalars before the update, lr, the numbers that all groups share.
constexpr int kInputs = 2 + kMaxCarried + kShared;
constexpr int kMaxProgramConstants = 32;
constexpr int kMaxInstructions = 48;
constexpr int kMaxOperands = 3;

#define FASTOPT_NAME(name, operands, value) name,
enum class Operation : uint8_t { FASTOPT_OPERATIONS(FASTOPT_NAME) };
#undef FASTOPT_NAME

// The index of a value: inputs from 0 on, then the instructions' results; constants from -1 down.
using Operand = int8_t;

struct Instruction {
    Operation operation;
    Operand operands[kMaxOperands];
};

struct Program {
    double constants[kMaxProgramConstants];
    Instruction instructions[kMaxInstructions];
    int32_t instruction_count;
    Operand prologue[kMaxScalars], rule[kMaxScalars], carried[kMaxCarried];  // 0 where the rule has fewer
    Operand average_weight;                                                  // 0 where there is no average
};

static_assert(kInputs + kMaxInstructions <= 128 && kMaxProgramConstants <= 128, "beyond the range of an Operand");
static_assert(16 * sizeof(Program) <= 8192, "a kernel's parameters, 32 KiB, hold 16 programs and much else");

namespace {

FASTOPT_HD double apply(Operation operation, double a, double b, double c) {
    switch (operation) {
#define FASTOPT_CASE(name, operands, value) \
    case Operation::name: return value;
        FASTOPT_OPERATIONS(FASTOPT_CASE)
#undef FASTOPT_CASE
    }
    return 0;
}

// Writes the program's results to a Constants; those that the rule does not have are arbitrary.
FASTOPT_HD void evaluate(const Program& program, const double* inputs, Constants& results) {
    double values[kInputs + kMaxInstructions];
    for (int i = 0; i < kInputs; ++i) values[i] = inputs[i];
    const auto at = [&](Operand place) { return place < 0 ? program.constants[~place] : values[place]; };
    for (int i = 0; i < program.instruction_count; ++i) {
        const Instruction& next = program.instructions[i];
        values[kInputs + i] = apply(next.operation, at(next.operands[0]), at(next.operands[1]), at(next.operands[2]));
    }
    for (int i = 0; i < kMaxScalars; ++i) results.prologue[i] = at(program.prologue[i]);
    for (int i = 0; i < kMaxScalars; ++i) results.rule[i] = at(program.rule[i]);
    for (int i = 0; i < kMaxCarried; ++i) results.carried[i] = at(program.carried[i]);
    results.average_weight = at(program.average_weight);
}

}  // namespace
}  // namespace fastopt
