// What the engine asks of GPUs: plain data and functions, without a CUDA header. The .cu files have them;
// no_cuda.cpp is their absence. Everything runs on the caller's stream, waits for nothing, allocates nothing, and
// throws std::runtime_error where a kernel cannot be launched.
#pragma once

#include <string>

#include "common.h"

namespace fastopt {

struct Program;      // rules/program.h
struct NormTask;     // norm/task.h
struct DropoutTask;  // random/task.h

// Scalars of a step as kernels on a device read them: rounded once, to either compute type; 16 bytes at a time.
struct alignas(16) ScalarSet {
    float rounded_prologue[kMaxScalars], rounded_rule[kMaxScalars];
    double prologue[kMaxScalars], rule[kMaxScalars];
    int32_t skip;  // GradScaler found an inf: nothing is to happen
};

namespace cuda {

// Version of the toolkit, "" in a build without CUDA.
std::string built();

// Devices a driver can reach; 0 without one, and then `why` says so.
int device_count(std::string& why);

// What memory of the CPU counts as: kHost, but a device where the kernels are emulated.
int device_of_host();

struct Stream {
    int device;
    void* handle;  // cudaStream_t
};

// What a step depends on and only the device knows; null where it does not.
struct DeviceInputs {
    const float* loss_scale;
    const float* found_inf;
    const double* norm;  // of the gradients
};

// Scalars that the host knows, but for the inputs.
void upload_scalars(const Stream& stream, const Constants* known, int count, const DeviceInputs& inputs,
                    ScalarSet* sets);

// Scalars that a program computes from counters in device memory, which are counted on unless all is skipped.
// `learning_rate` is one number there, or no data.
void evaluate_scalars(const Stream& stream, const Program& program, const Array& learning_rate, double max_grad_norm,
                      const Counter* counters, int count, const DeviceInputs& inputs, ScalarSet* sets);

// One step of tasks of one rule; their `scalars` are ready.
void update(const Stream& stream, int rule, const Task* const* tasks, int count);

// The partial results of a sum, at each task's `partials`: one per kSumChunk elements.
void reduce(const Stream& stream, int reduction, double exponent, const Task* const* tasks, int count);

// The norm they make, divided by the loss scale.
void join(const Stream& stream, int reduction, double exponent, const double* partials, int64_t n,
          const DeviceInputs& inputs, double known_loss_scale, double* norm);

// Batch normalization, of a task in device memory. `partials` have room for a pair per column of every chunk, and of
// what is behind the last full row; `coefficients`, where there are any, are written for the elements of the same call.

// The pairs of all channels; then statistics, or the gradients of weight and bias, where the task has them.
void norm_moments(const Stream& stream, const NormTask& task);
void norm_sums(const Stream& stream, const NormTask& task);

// Where statistics come from that the batch does not have: they are there; the running ones; those of other processes;
// the pairs and gradients of no elements.
enum class NormSource { statistics, running, gathered, nothing };
void norm_finalize(const Stream& stream, const NormTask& task, NormSource source);

// The elements.
void norm_apply(const Stream& stream, const NormTask& task);
void norm_gradient(const Stream& stream, const NormTask& task);

// Dropout. A rule of the dropout table. The task's layout is the host's memory.
void drop(const Stream& stream, int rule, const DropoutTask& task);

// The gradients of x and, by way of the task's column sums, of the bias.
void drop_and_sum(const Stream& stream, const DropoutTask& task, const Array& grad_bias);

// The first `n` flags of a mask: a byte each, or, `packed`, a bit.
void write_mask(const Stream& stream, const DropoutTask& task, int64_t n, bool packed);

// The blocks of `count` counters from `first` on.
void write_blocks(const Stream& stream, const DropoutTask& task, uint64_t first, int64_t count);

}  // namespace cuda
}  // namespace fastopt
