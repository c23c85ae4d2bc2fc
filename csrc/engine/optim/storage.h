// How the parameters of a group are kept (Storage in common.h): the options as Python gives them, the tensors of one
// parameter, and their description.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>

#include "engine/interop/tensor.h"

namespace fastopt {

// Borrowed; null where there is none.
struct StorageRefs {
    PyObject *master, *average, *copy;
    PyObject* scales[kMaxStates];
};

struct GroupStorage {
    pybind11::object master_key, average_key;  // in a parameter's state; None where the option is off
    pybind11::tuple scale_keys;                // one for each state, None where it is never coded
    bool narrow[kMaxStates] = {};              // states that are bfloat16
    pybind11::object copies;                   // a list parallel to the parameters, or None
    pybind11::list numbers, firsts;            // of the parameters, for random rounding

    // Of (master key, average key, scale keys, whether states are bfloat16, copies, numbers, first elements, seed,
    // whether parameters, whether states are rounded at random). What kernels need goes to `common`.
    GroupStorage(const pybind11::tuple& options, Constants& common);

    // The type that a state has to have: that of the option, or float32 where its parameter has a master. None: any
    // that goes with the parameter's.
    std::optional<DType> wants(int k, DType param) const;

    bool has_average() const { return !average_key.is_none(); }

    // Finds the tensors of the parameter at `index`; `own` is its state or null. False where the average is missing.
    // Not every parameter has a master, and not every state is coded: describe() knows.
    bool find(PyObject* own, Py_ssize_t index, StorageRefs& refs) const;

    // False where a tensor is not as the kernels take it. The task's states are described already, the coded ones with
    // the types of their codes.
    bool describe(const StorageRefs& refs, const TensorView& param, int64_t index, const Task& task,
                  Storage& storage) const;
};

}  // namespace fastopt
