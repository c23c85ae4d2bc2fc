// The rules by name, with the names of their scalars as Python strings.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "engine/interop/scalar_names.h"

namespace fastopt {

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

// The row in every table of reductions. Throws py::key_error for an unknown name.
int find_reduction(const std::string& name);

// {rule: (number of states, names of scalars, whether it reads gradients, whether it is factored)}
pybind11::dict describe_rules();

}  // namespace fastopt
