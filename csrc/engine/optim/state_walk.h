// Finds a parameter's states in the optimizer's state dict.
#pragma once

#include <pybind11/pybind11.h>

namespace fastopt {

// Finds a parameter's entry in the optimizer's state dict. The dict usually has the order of the parameters, and
// walking along with it saves hashing a tensor, which is a Python call.
class StateWalk {
   public:
    void restart() { position_ = 0; }

    // Returns a borrowed reference, or null where there is no entry. Throws what Python throws.
    PyObject* find(PyObject* state, PyObject* param);

    // Returns the entry only if it comes next, and moves past it. Enough for a parameter without gradient, which is not
    // worth a hash.
    PyObject* pass(PyObject* state, PyObject* param);

   private:
    Py_ssize_t position_ = 0;  // of the next expected entry; not a pointer, because the dict may change
};

}  // namespace fastopt
