// Takes in torch tensors without linking torch: through the DLPack exchange API (torch >= 2.10), or through data_ptr()
// and similar methods (any torch).
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "common.h"

namespace fastopt {

constexpr int kMaxDims = 64;  // torch's limit

// What the engine knows of a tensor. Valid while the tensor lives and is not resized.
struct TensorView {
    void* data;
    int64_t numel;  // counts real numbers: a complex element is two
    int ndim;
    const int64_t* sizes;
    const int64_t* strides;
    DType type;
    bool complex;
    int device;                                          // kHost, or the index of a CUDA device
    bool on_host;                                        // whether the CPU can read it
    int64_t own_sizes[kMaxDims], own_strides[kMaxDims];  // used where the intake has no memory to point to
};

// Called once at import. `increment_version` takes a list of tensors; `allocate` takes (bytes, device) and returns a
// tensor; `current_stream` takes a device and returns a stream's address.
void set_torch(const pybind11::object& torch, const pybind11::object& increment_version,
               const pybind11::object& allocate, const pybind11::object& current_stream);

// Tells autograd that the tensors' memory changes without its knowledge. Throws where torch does.
void increment_version(const pybind11::list& tensors);

// `name` is "exchange" or "data_ptr". Throws std::invalid_argument where this torch lacks it.
void use_intake(const std::string& name);
std::string intake_in_use();

// Where a contiguous tensor of any type, including integers, has its elements.
struct Memory {
    void* data;
    int device;
};
Memory memory_of(pybind11::handle tensor);

// Whether it is exactly a torch.Tensor or Parameter: a subclass may hold its memory elsewhere.
bool is_plain(PyObject* tensor);

// Memory from torch's allocator. It is freed with the object; work that a stream has queued may still use it.
struct DeviceMemory {
    pybind11::object tensor;
    void* data = nullptr;
};
DeviceMemory allocate(int device, size_t bytes);

// torch's current stream.
void* current_stream(int device);

// Fills `out` if `tensor` is plain, strided, not lazily conjugated, of a type that the kernels know, and on the CPU or
// a CUDA device that kernels were built for. Otherwise returns false without a Python error; the caller's slow path
// reports what is wrong or corrects it.
// `integers`: takes int8, uint8 and int16 instead of floats.
bool view(PyObject* tensor, TensorView& out, bool integers = false);

// False for a sparse tensor. view() would learn it from a C++ exception in torch, which is slow. Only for plain
// tensors.
bool is_strided(PyObject* tensor);

// Adds 1 to a plain int64 number on the CPU, faster than torch's add_. Returns false, having written nothing, for
// anything else.
bool count(pybind11::handle counter);

// True for a lazily negated tensor, whose memory does not hold its values. Asking torch is slow, so states, which the
// optimizer made itself, are not asked.
bool is_negated(PyObject* tensor);

// Whether it is in C order: the last dimension runs along memory, and so on.
bool is_contiguous(const TensorView& tensor);

// Whether no two indices share an element and no gap lies between elements.
bool is_dense(const TensorView& tensor);

// Whether sizes are the same, and strides where they matter: element i of both lies at the same offset.
bool same_layout(const TensorView& a, const TensorView& b);

int64_t element_size(DType type);

}  // namespace fastopt
