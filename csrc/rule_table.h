// The rules by name, with the names of their scalars as Python strings.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "common.h"

namespace fastopt {

// A struct of scalars as Python sees it: reads {name: float} into doubles, in the struct's order.
class ScalarNames {
   public:
    explicit ScalarNames(const char* comma_separated);

    // Throws py::key_error unless `values` holds exactly these names.
    void read(const pybind11::dict& values, double* out) const;

    pybind11::tuple as_tuple() const;

   private:
    std::vector<PyObject*> names_;  // interned; live as long as the process
};

struct Rule {
    int index;  // row in every ISA's table
    int states;
    ScalarNames scalars;
};

// Throws py::key_error for an unknown name.
const Rule& find_rule(const std::string& name);
const ScalarNames& prologue_names();

// {rule: (number of states, names of scalars)}
pybind11::dict describe_rules();

}  // namespace fastopt
