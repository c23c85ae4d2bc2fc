// Intake of torch tensors without linking torch: through the DLPack exchange API (torch >= 2.10), or
// through data_ptr() and its neighbours (any torch).
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "common.h"

namespace fastopt {

constexpr int kMaxDims = 64;  // torch's own limit

// What is known of a tensor. Valid while the tensor lives and is not resized.
struct TensorView {
    void* data;
    int64_t numel;  // of real numbers: a complex element counts as two
    int ndim;
    const int64_t* sizes;
    const int64_t* strides;
    DType type;
    bool complex;
    int device;                                          // kHost or the index of a CUDA device
    bool on_host;                                        // the CPU can read it
    int64_t own_sizes[kMaxDims], own_strides[kMaxDims];  // where the intake has no memory to point to
};

// Called once at import. `increment_version` takes a list of tensors; `allocate` (bytes, device) and returns a tensor;
// `current_stream` a device, and returns a stream's address.
void set_torch(const pybind11::object& torch, const pybind11::object& increment_version,
               const pybind11::object& allocate, const pybind11::object& current_stream);

// Tells autograd that the tensors' memory is written behind its back. Throws where torch does.
void increment_version(const pybind11::list& tensors);

// "exchange" or "data_ptr"; throws std::invalid_argument where this torch lacks it.
void use_intake(const std::string& name);
std::string intake_in_use();

// Where a contiguous tensor of any type, of integers too, has its elements.
struct Memory {
    void* data;
    int device;
};
Memory memory_of(pybind11::handle tensor);

// Exactly a torch.Tensor or Parameter: a subclass may hold its memory elsewhere.
bool is_plain(PyObject* tensor);

// Memory of torch's allocator: given back with the object, which a stream's work in progress outlives.
struct DeviceMemory {
    pybind11::object tensor;
    void* data = nullptr;
};
DeviceMemory allocate(int device, size_t bytes);

// The stream that torch works on.
void* current_stream(int device);

// Fills `out` where `tensor` is plain, strided, on the CPU or a CUDA device that kernels were built for, of a type the
// kernels know, and not lazily conjugated. Otherwise returns false, with no Python error set: the caller's slow path
// says what is wrong, or puts it right.
bool view(PyObject* tensor, TensorView& out);

// False for a sparse tensor, of which torch would tell view() by a C++ exception: as long as a small model's step.
// Of plain tensors.
bool is_strided(PyObject* tensor);

// Adds 1 to a plain int64 number on the CPU, in a fifth of the time of torch's add_. False, with nothing written, for
// anything else.
bool count(pybind11::handle counter);

// True for a lazily negated tensor, whose memory does not hold its values. Asking torch costs as much
// as two views, so states, which the optimizer made itself, are not asked.
bool is_negated(PyObject* tensor);

// In C order: the last dimension runs along memory, and so on.
bool is_contiguous(const TensorView& tensor);

// No two indices share an element and no gap lies between them.
bool is_dense(const TensorView& tensor);

// Same sizes, and same strides where they matter: element i of both lies at the same offset.
bool same_layout(const TensorView& a, const TensorView& b);

int64_t element_size(DType type);

}  // namespace fastopt
