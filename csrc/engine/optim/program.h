// Programs of scalars as Python passes them.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <string>

#include "engine/optim/rule_table.h"
#include "rules/program.h"

namespace fastopt {

// Reads a Program of python/fastopt/optim/_program.py for the scalars of `rule`. Throws py::key_error for an unknown
// operation or a name that the rule lacks, and py::value_error for a program that cannot be evaluated.
Program read_program(const pybind11::tuple& program, const Rule& rule);

// For tests: the scalars for these inputs, as ({name: float} of the prologue, the same of the rule, carried).
pybind11::tuple evaluate_program(const pybind11::tuple& program, const std::string& rule,
                                 const std::array<double, kInputs>& inputs);

}  // namespace fastopt
