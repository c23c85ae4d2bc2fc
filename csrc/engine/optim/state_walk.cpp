#include "engine/optim/state_walk.h"

namespace py = pybind11;

namespace fastopt {

PyObject* StateWalk::pass(PyObject* state, PyObject* param) {
    PyObject *key, *value;
    Py_ssize_t next = position_;
    if (!PyDict_Next(state, &next, &key, &value) || key != param) return nullptr;
    position_ = next;
    return value;
}

PyObject* StateWalk::find(PyObject* state, PyObject* param) {
    if (PyObject* next = pass(state, param)) return next;
    PyObject* found = PyDict_GetItemWithError(state, param);
    if (found == nullptr && PyErr_Occurred()) throw py::error_already_set();
    return found;
}

}  // namespace fastopt
