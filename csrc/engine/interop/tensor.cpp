#include "engine/interop/tensor.h"

#include <stdexcept>

#include "cuda/engine.h"

#include FASTOPT_DLPACK_HEADER

namespace py = pybind11;

namespace fastopt {
namespace {

// Borrowed for the life of the process, because torch is never unloaded.
PyTypeObject* tensor_type = nullptr;
PyTypeObject* parameter_type = nullptr;
PyObject* is_neg_method = nullptr;
PyObject* is_conj_method = nullptr;
PyGetSetDef* layout_getter = nullptr;
PyObject* strided_layout = nullptr;
PyObject* increment_version_function = nullptr;
PyObject* allocate_function = nullptr;
PyObject* current_stream_function = nullptr;
DLPackExchangeAPI* exchange = nullptr;
bool use_exchange = false;

struct TorchDType {
    const char* name;
    DType type;
    bool complex;
    PyObject* object;
};

TorchDType dtypes[] = {
    {"float32", DType::f32, false, nullptr},   {"float64", DType::f64, false, nullptr},
    {"bfloat16", DType::bf16, false, nullptr}, {"float16", DType::f16, false, nullptr},
    {"complex64", DType::f32, true, nullptr},  {"complex128", DType::f64, true, nullptr},
    {"int8", DType::i8, false, nullptr},       {"uint8", DType::u8, false, nullptr},
    {"int16", DType::i16, false, nullptr},
};

bool dtype_of(const DLDataType& dtype, TensorView& out) {
    if (dtype.lanes != 1) return false;
    const int bits = dtype.bits;
    out.complex = dtype.code == kDLComplex;
    if (dtype.code == kDLBfloat && bits == 16)
        out.type = DType::bf16;
    else if (dtype.code == kDLFloat && bits == 16)
        out.type = DType::f16;
    else if ((dtype.code == kDLFloat && bits == 32) || (out.complex && bits == 64))
        out.type = DType::f32;
    else if ((dtype.code == kDLFloat && bits == 64) || (out.complex && bits == 128))
        out.type = DType::f64;
    else if (dtype.code == kDLInt && (bits == 8 || bits == 16))
        out.type = bits == 8 ? DType::i8 : DType::i16;
    else if (dtype.code == kDLUInt && bits == 8)
        out.type = DType::u8;
    else
        return false;
    return true;
}

// Returns false where there are no kernels for the device.
bool place(bool on_host, int index, TensorView& out) {
    static const bool has_cuda = !cuda::built().empty();
    out.on_host = on_host;
    out.device = on_host ? cuda::device_of_host() : index;
    return on_host || has_cuda;
}

bool through_exchange(PyObject* tensor, TensorView& out) {
    DLTensor dl;
    if (exchange->dltensor_from_py_object_no_sync(tensor, &dl) != 0) return false;  // not strided, or without memory
    const bool on_host = dl.device.device_type == kDLCPU;
    if (!on_host && dl.device.device_type != kDLCUDA) return false;
    if (!place(on_host, dl.device.device_id, out) || !dtype_of(dl.dtype, out) || dl.ndim > kMaxDims) return false;
    out.data = static_cast<char*>(dl.data) + dl.byte_offset;
    out.ndim = dl.ndim;
    out.sizes = dl.shape;
    out.strides = dl.strides;
    return true;
}

bool read_ints(const py::object& tuple, int64_t* out, int& count) {
    count = 0;
    for (py::handle item : tuple) {
        if (count == kMaxDims) return false;
        out[count++] = item.cast<int64_t>();
    }
    return true;
}

bool through_data_ptr(PyObject* tensor, TensorView& out) {
    const py::handle t(tensor);
    const bool on_host = t.attr("is_cpu").cast<bool>();
    if (!on_host && !t.attr("is_cuda").cast<bool>()) return false;
    if (!place(on_host, on_host ? 0 : t.attr("get_device")().cast<int>(), out)) return false;
    const py::object dtype = t.attr("dtype");
    const TorchDType* found = nullptr;
    for (const TorchDType& known : dtypes)
        if (known.object == dtype.ptr()) found = &known;
    if (found == nullptr) return false;
    out.type = found->type;
    out.complex = found->complex;
    out.data = reinterpret_cast<void*>(t.attr("data_ptr")().cast<uintptr_t>());
    int dims = 0;
    if (!read_ints(t.attr("shape"), out.own_sizes, out.ndim)) return false;
    if (!read_ints(t.attr("stride")(), out.own_strides, dims)) return false;
    out.sizes = out.own_sizes;
    out.strides = out.own_strides;
    return true;
}

bool ask(PyObject* method, PyObject* tensor) {
    PyObject* answer = PyObject_Vectorcall(method, &tensor, 1, nullptr);
    if (answer == nullptr) throw py::error_already_set();
    Py_DECREF(answer);
    return answer != Py_False;
}

}  // namespace

void set_torch(const py::object& torch, const py::object& increment_version, const py::object& allocate,
               const py::object& current_stream) {
    increment_version_function = py::object(increment_version).release().ptr();
    allocate_function = py::object(allocate).release().ptr();
    current_stream_function = py::object(current_stream).release().ptr();
    const py::object tensor = torch.attr("Tensor");
    tensor_type = reinterpret_cast<PyTypeObject*>(tensor.ptr());
    parameter_type = reinterpret_cast<PyTypeObject*>(py::object(torch.attr("nn").attr("Parameter")).release().ptr());
    is_neg_method = py::object(tensor.attr("is_neg")).release().ptr();
    is_conj_method = py::object(tensor.attr("is_conj")).release().ptr();
    const py::object layout = tensor.attr("layout");  // called directly: a lookup takes longer than the call
    if (Py_TYPE(layout.ptr()) != &PyGetSetDescr_Type) throw py::type_error("torch.Tensor.layout is not a getter");
    layout_getter = reinterpret_cast<PyGetSetDescrObject*>(layout.ptr())->d_getset;
    strided_layout = py::object(torch.attr("strided")).release().ptr();
    for (TorchDType& dtype : dtypes) dtype.object = py::object(torch.attr(dtype.name)).release().ptr();
    if (py::hasattr(tensor, "__dlpack_c_exchange_api__")) {
        const py::object capsule = tensor.attr("__dlpack_c_exchange_api__");
        void* pointer = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
        if (pointer == nullptr) throw py::error_already_set();
        auto* api = static_cast<DLPackExchangeAPI*>(pointer);
        if (api->header.version.major == DLPACK_MAJOR_VERSION) exchange = api;
    }
    use_exchange = exchange != nullptr;
}

void increment_version(const py::list& tensors) {
    PyObject* argument = tensors.ptr();
    PyObject* none = PyObject_Vectorcall(increment_version_function, &argument, 1, nullptr);
    if (none == nullptr) throw py::error_already_set();
    Py_DECREF(none);
}

Memory memory_of(py::handle tensor) {
    const bool on_host = tensor.attr("is_cpu").cast<bool>();
    return {reinterpret_cast<void*>(tensor.attr("data_ptr")().cast<uintptr_t>()),
            on_host ? cuda::device_of_host() : tensor.attr("get_device")().cast<int>()};
}

DeviceMemory allocate(int device, size_t bytes) {
    DeviceMemory memory;
    if (bytes == 0) return memory;
    memory.tensor = py::handle(allocate_function)(bytes, device);
    memory.data = reinterpret_cast<void*>(memory.tensor.attr("data_ptr")().cast<uintptr_t>());
    return memory;
}

void* current_stream(int device) {
    return reinterpret_cast<void*>(py::handle(current_stream_function)(device).cast<uintptr_t>());
}

void use_intake(const std::string& name) {
    if (name != "exchange" && name != "data_ptr")
        throw std::invalid_argument("FASTOPT_INTAKE: unknown value '" + name + "', known: exchange, data_ptr");
    if (name == "exchange" && exchange == nullptr)
        throw std::invalid_argument("FASTOPT_INTAKE: this torch has no DLPack exchange API (torch >= 2.10 has)");
    use_exchange = name == "exchange";
}

std::string intake_in_use() { return use_exchange ? "exchange" : "data_ptr"; }

bool is_plain(PyObject* tensor) { return Py_TYPE(tensor) == tensor_type || Py_TYPE(tensor) == parameter_type; }

bool is_strided(PyObject* tensor) {
    PyObject* layout = layout_getter->get(tensor, layout_getter->closure);
    if (layout == nullptr) throw py::error_already_set();
    Py_DECREF(layout);
    return layout == strided_layout;
}

bool count(py::handle counter) {
    DLTensor dl;
    if (!use_exchange || !is_plain(counter.ptr())) return false;
    if (exchange->dltensor_from_py_object_no_sync(counter.ptr(), &dl) != 0) {
        PyErr_Clear();
        return false;
    }
    const bool whole = dl.dtype.code == kDLInt && dl.dtype.bits == 64 && dl.dtype.lanes == 1;
    if (dl.device.device_type != kDLCPU || !whole || dl.ndim != 0) return false;
    py::list written(1);
    written[0] = counter;
    increment_version(written);
    int64_t& number = *reinterpret_cast<int64_t*>(static_cast<char*>(dl.data) + dl.byte_offset);
    number = static_cast<int64_t>(static_cast<uint64_t>(number) + 1);
    return true;
}

bool is_negated(PyObject* tensor) { return ask(is_neg_method, tensor); }

bool view(PyObject* tensor, TensorView& out, bool integers) {
    if (!is_plain(tensor)) return false;
    try {
        if (!(use_exchange ? through_exchange(tensor, out) : through_data_ptr(tensor, out))) {
            PyErr_Clear();
            return false;
        }
    } catch (const py::error_already_set&) {
        return false;
    }
    const bool is_integer = out.type == DType::i8 || out.type == DType::u8 || out.type == DType::i16;
    if (is_integer != integers || (out.complex && ask(is_conj_method, tensor))) return false;
    out.numel = out.complex ? 2 : 1;
    for (int d = 0; d < out.ndim; ++d) out.numel *= out.sizes[d];
    return out.data != nullptr || out.numel == 0;  // torch has tensors of zeros without memory
}

bool is_contiguous(const TensorView& t) {
    if (t.numel == 0) return true;
    int64_t expected = 1;
    for (int d = t.ndim - 1; d >= 0; --d) {
        if (t.sizes[d] != 1 && t.strides[d] != expected) return false;
        expected *= t.sizes[d];
    }
    return true;
}

bool is_dense(const TensorView& t) {
    if (is_contiguous(t)) return true;
    // Not in C order. The tensor is dense if each stride, from the innermost outwards, is the span of those before.
    bool placed[kMaxDims] = {};
    int64_t expected = 1;
    for (int k = 0; k < t.ndim; ++k) {
        int next = -1;
        for (int d = 0; d < t.ndim; ++d) {
            if (placed[d]) continue;
            if (t.sizes[d] == 1 || t.strides[d] == expected) {
                next = d;
                break;
            }
        }
        if (next < 0) return false;
        placed[next] = true;
        expected *= t.sizes[next];
    }
    return true;
}

bool same_layout(const TensorView& a, const TensorView& b) {
    if (a.ndim != b.ndim || a.complex != b.complex) return false;
    for (int d = 0; d < a.ndim; ++d)
        if (a.sizes[d] != b.sizes[d] || (a.sizes[d] > 1 && a.strides[d] != b.strides[d] && a.numel > 0)) return false;
    return true;
}

int64_t element_size(DType type) {
    switch (type) {
        case DType::f32: return 4;
        case DType::f64: return 8;
        case DType::bf16:
        case DType::f16:
        case DType::i16: return 2;
        case DType::i8:
        case DType::u8: return 1;
    }
    return 0;
}

}  // namespace fastopt
