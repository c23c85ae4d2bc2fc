// The names of a rule's scalars as Python strings.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

namespace fastopt {

// A struct of scalars as Python sees it: reads {name: float} into doubles, in the struct's order.
class ScalarNames {
   public:
    explicit ScalarNames(const char* comma_separated);

    // Throws py::key_error unless `values` has exactly these names and `others` more.
    void read(const pybind11::dict& values, double* out, size_t others = 0) const;

    pybind11::tuple as_tuple() const;

   private:
    std::vector<PyObject*> names_;  // interned; they live as long as the process
};

}  // namespace fastopt
