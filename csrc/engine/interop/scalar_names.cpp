#include "engine/interop/scalar_names.h"

#include <sstream>
#include <string>

namespace py = pybind11;

namespace fastopt {

ScalarNames::ScalarNames(const char* comma_separated) {
    std::istringstream words(comma_separated);
    std::string word;
    while (std::getline(words >> std::ws, word, ',')) names_.push_back(PyUnicode_InternFromString(word.c_str()));
}

void ScalarNames::read(const py::dict& values, double* out, size_t others) const {
    for (size_t i = 0; i < names_.size(); ++i) {
        PyObject* value = PyDict_GetItemWithError(values.ptr(), names_[i]);
        if (value == nullptr) throw py::key_error("scalar '" + py::cast<std::string>(names_[i]) + "' is missing");
        out[i] = PyFloat_AsDouble(value);
        if (out[i] == -1.0 && PyErr_Occurred()) throw py::error_already_set();
    }
    if (values.size() != names_.size() + others) throw py::key_error("more scalars than the rule has");
}

py::tuple ScalarNames::as_tuple() const {
    py::tuple names(names_.size());
    for (size_t i = 0; i < names_.size(); ++i) names[i] = py::reinterpret_borrow<py::object>(names_[i]);
    return names;
}

}  // namespace fastopt
