// Where a parameter's states are in the optimizer's state dict.
#pragma once

#include <pybind11/pybind11.h>

namespace fastopt {

// Finds a parameter's entry in the optimizer's state dict. The dict's order is mostly that of the
// walk through the parameters, and going along with it saves a hash of a tensor (a Python call) each.
class StateWalk {
   public:
    void restart() { position_ = 0; }

    // Borrowed, or null where there is no entry. Throws what Python throws.
    PyObject* find(PyObject* state, PyObject* param);

    // The entry if it is the one that comes next; goes past it. For a parameter without gradient, which
    // is not worth a hash, this is all.
    PyObject* pass(PyObject* state, PyObject* param);

   private:
    Py_ssize_t position_ = 0;  // of the entry expected next; no pointer, as the dict may change
};

}  // namespace fastopt
