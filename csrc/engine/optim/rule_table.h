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

    // Throws py::key_error unless `values` holds exactly these names, and `others` more.
    void read(const pybind11::dict& values, double* out, size_t others = 0) const;

    pybind11::tuple as_tuple() const;

   private:
    std::vector<PyObject*> names_;  // interned; live as long as the process
};

struct Rule {
    int index;  // row in every ISA's table
    int states;
    bool reads_grad;
    bool factored;
    ScalarNames scalars;
};

// Throws py::key_error for an unknown name.
const Rule& find_rule(const std::string& name);
const ScalarNames& prologue_names();

// Its row in every table of reductions. Throws py::key_error for an unknown name.
int find_reduction(const std::string& name);

// {rule: (number of states, names of scalars, whether it reads gradients, whether it is factored)}
pybind11::dict describe_rules();

}  // namespace fastopt
