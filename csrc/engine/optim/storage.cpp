#include "engine/optim/storage.h"

#include "math/codes.h"

namespace py = pybind11;

namespace fastopt {
namespace {

bool is_half(DType type) { return type == DType::bf16 || type == DType::f16; }
bool is_coded(const Array& state) { return state.type == DType::i8 || state.type == DType::u8; }

// Where a tensor lies that has the parameter's layout; false where it has not.
bool find_alike(PyObject* tensor, const TensorView& param, bool integers, Array& where) {
    TensorView v;
    if (!view(tensor, v, integers) || v.device != param.device) return false;
    v.complex |= integers && param.complex;
    if (!same_layout(v, param)) return false;
    where = {v.data, v.type};
    return true;
}

}  // namespace

GroupStorage::GroupStorage(const py::tuple& options, Constants& common) {
    master_key = options[0];
    average_key = options[1];
    scale_keys = options[2].cast<py::tuple>();
    const auto narrows = options[3].cast<py::tuple>();
    for (size_t k = 0; k < narrows.size() && k < kMaxStates; ++k) narrow[k] = narrows[k].cast<bool>();
    copies = options[4];
    numbers = options[5].cast<py::list>();
    firsts = options[6].cast<py::list>();
    common.seed = options[7].cast<uint64_t>();
    common.random_param = options[8].cast<bool>();
    common.random_states = options[9].cast<bool>();
}

std::optional<DType> GroupStorage::wants(int k, DType param) const {
    if (narrow[k]) return DType::bf16;
    if (is_half(param) && !master_key.is_none()) return DType::f32;
    return std::nullopt;
}

bool GroupStorage::find(PyObject* own, Py_ssize_t index, StorageRefs& refs) const {
    const auto find_key = [own](py::handle key, PyObject*& out) {
        if (key.is_none() || own == nullptr) return key.is_none();
        out = PyDict_GetItemWithError(own, key.ptr());
        if (out == nullptr && PyErr_Occurred()) throw py::error_already_set();
        return out != nullptr;
    };
    for (size_t k = 0; k < scale_keys.size(); ++k) find_key(scale_keys[k], refs.scales[k]);
    if (!copies.is_none()) {
        if (!PyList_Check(copies.ptr()) || index >= PyList_GET_SIZE(copies.ptr())) return false;
        refs.copy = PyList_GET_ITEM(copies.ptr(), index);
    }
    find_key(master_key, refs.master);
    return find_key(average_key, refs.average);
}

bool GroupStorage::describe(const StorageRefs& refs, const TensorView& param, int64_t index, const Task& task,
                            Storage& storage) const {
    storage = {};
    storage.number = numbers[static_cast<size_t>(index)].cast<uint32_t>();
    storage.first = firsts[static_cast<size_t>(index)].cast<int64_t>();
    if (!master_key.is_none() && is_half(param.type)) {
        if (refs.master == nullptr) return false;
        const bool whole = find_alike(refs.master, param, false, storage.master) && storage.master.type == DType::f32;
        const bool lower = !whole && param.type == DType::bf16 &&
                           find_alike(refs.master, param, true, storage.master) && storage.master.type == DType::i16;
        if (!whole && !lower) return false;
    }
    if (refs.average != nullptr) {
        const DType wanted = is_half(param.type) ? DType::f32 : param.type;
        if (!find_alike(refs.average, param, false, storage.average) || storage.average.type != wanted) return false;
    }
    if (refs.copy != nullptr && !find_alike(refs.copy, param, false, storage.copy)) return false;
    for (int k = 0; k < kMaxStates; ++k) {
        if (!is_coded(task.states[k])) continue;
        TensorView scales;
        if (refs.scales[k] == nullptr || !view(refs.scales[k], scales) || scales.type != DType::f32 || scales.complex ||
            scales.device != param.device || !is_contiguous(scales) ||
            scales.numel != (param.numel + kCodeBlock - 1) / kCodeBlock)
            return false;
        storage.scales[k] = static_cast<float*>(scales.data);
    }
    return true;
}

}  // namespace fastopt
