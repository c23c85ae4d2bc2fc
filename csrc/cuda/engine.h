// What the engine asks of GPUs: plain data and functions, without a CUDA header. The .cu files define them, or
// no_cuda.cpp does in a build without CUDA. Everything runs on the caller's stream, waits for nothing, allocates
// nothing, and throws std::runtime_error where a kernel cannot be launched.
#pragma once

#include <string>

#include "common.h"

namespace fastopt {

struct Program;      // rules/program.h
struct NormTask;     // norm/task.h
struct DropoutTask;  // random/task.h
struct VectorTask;   // vectors/task.h
struct History;      // vectors/solve.h

// Scalars of a step as kernels on a device read them: rounded once, for both compute types; read 16 bytes at a time.
struct alignas(16) ScalarSet {
    float rounded_prologue[kMaxScalars], rounded_rule[kMaxScalars];
    double prologue[kMaxScalars], rule[kMaxScalars];
    double average_weight;  // the rest as in Constants
    uint64_t seed;
    uint32_t step;
    int32_t random_param, random_states;  // flags; int32_t, because a byte would be read alone
    int32_t masks, decays_cautiously;
    int32_t skip;  // GradScaler found an inf: the step does nothing
};

namespace cuda {

// The version of the toolkit; "" in a build without CUDA.
std::string built();

// The oldest driver that runs the kernels, by the CUDA version that it supports, such as "13.0"; "" without CUDA.
std::string oldest_driver();

// Why a driver of this CUDA version, such as 12040, cannot run the kernels; "" if it can. 0: there is no driver.
std::string refusal_of_driver(int version);

// The device that the CPU's memory belongs to: kHost, or a device number where kernels are emulated.
int device_of_host();

struct Stream {
    int device;
    void* handle;  // cudaStream_t
};

// Inputs of a step that only the device knows; null where the host knows them.
struct DeviceInputs {
    const float* loss_scale;
    const float* found_inf;
    const double* norm;  // of the gradients
};

// Uploads scalars that the host knows, and completes them with the inputs.
void upload_scalars(const Stream& stream, const Constants* known, int count, const DeviceInputs& inputs,
                    ScalarSet* sets);

// Computes scalars by a program from counters in device memory, and advances the counters unless the step is skipped.
// `learning_rate` is one number in device memory, or has no data; `common` has what needs no program; `shared` are the
// numbers that all groups share, or null.
void evaluate_scalars(const Stream& stream, const Program& program, const Array& learning_rate, const Constants& common,
                      const Counter* counters, int count, const DeviceInputs& inputs, const double* shared,
                      ScalarSet* sets);

// Brings a table to device memory, as parameters of kernels: a copy would have to wait, or a captured graph would
// repeat it from memory of another call. `bytes` is a multiple of 8.
void upload(const Stream& stream, const void* table, size_t bytes, void* there);

// One step of tasks of one rule; their `scalars` must be ready.
void update(const Stream& stream, int rule, const Task* const* tasks, int count);

// Completes a monitored step: writes each task's row of the table, from its statistics, and NaN to all other rows. A
// step that the device skips leaves the table as it was.
void write_statistics(const Stream& stream, const Task* const* tasks, int count, double* table, int64_t rows,
                      const DeviceInputs& inputs);

// Writes the partial results of a sum to each task's `partials`: one per kSumChunk elements.
void reduce(const Stream& stream, int reduction, double exponent, const Task* const* tasks, int count);

// Joins them into the norm, divided by the loss scale.
void join(const Stream& stream, int reduction, double exponent, const double* partials, int64_t n,
          const DeviceInputs& inputs, double known_loss_scale, double* norm);

// Normalization of channels, in a task in device memory. `partials` has room for a pair per column of every chunk, and
// of the elements after the last full row. `coefficients`, if any, are written for the element kernels of the same
// call.

// The pairs of all sets, or channels; then the statistics, or the gradients of weight and bias, where the task has
// them.
void norm_moments(const Stream& stream, const NormTask& task);
void norm_sums(const Stream& stream, const NormTask& task);

// Where statistics come from if not from the batch: they exist already; the running ones; the moments of all processes.
// `nothing` stands for an empty input, whose pairs and gradients are zero.
enum class NormSource { statistics, running, gathered, nothing };
void norm_finalize(const Stream& stream, const NormTask& task, NormSource source);

// input = the sum of both summands, of `n` elements.
void norm_add(const Stream& stream, const NormTask& task, int64_t n);

// The element kernels.
void norm_apply(const Stream& stream, const NormTask& task);
void norm_gradient(const Stream& stream, const NormTask& task);

// Normalization of rows, in a task in device memory; `centered`: layer normalization, otherwise RMS. The gradient of
// the input; and the sums of the gradients of weight and bias, in the compute type, with their join over all rows.
void norm_rows(const Stream& stream, const NormTask& task, bool centered);
void norm_row_gradient(const Stream& stream, const NormTask& task, bool centered);
void norm_row_columns(const Stream& stream, const NormTask& task, bool centered);

// Vectors that run through all parameters, in a task in device memory, as are its tables of segments and rows.
void gather_vector(const Stream& stream, const VectorTask& task);
void scatter_vector(const Stream& stream, const VectorTask& task);
void multiply_history(const Stream& stream, const VectorTask& task);
void combine_rows(const Stream& stream, const VectorTask& task);
void solve_history(const Stream& stream, const History& history);

// Runs a rule of the dropout table. The task's layout is in host memory.
void drop(const Stream& stream, int rule, const DropoutTask& task);

// Computes the gradients of x and of the bias, with the task's column sums as scratch memory.
void drop_and_sum(const Stream& stream, const DropoutTask& task, const Array& grad_bias);

// Writes the first `n` flags of a mask: one byte each, or, `packed`, one bit.
void write_mask(const Stream& stream, const DropoutTask& task, int64_t n, bool packed);

// Writes the Philox blocks of `count` counters from `first` on.
void write_blocks(const Stream& stream, const DropoutTask& task, uint64_t first, int64_t count);

}  // namespace cuda
}  // namespace fastopt
