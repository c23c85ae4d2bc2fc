// Vectors that run through all parameters (vectors/task.h), called from Python. All vectors of a call are flat,
// contiguous and of one type, float32 or float64; sums are float64. Wrong operands, which only a mistake in our own
// Python code can be, are a RuntimeError.
#pragma once

#include <pybind11/pybind11.h>

namespace fastopt {

// out = weight * tensor, for all tensors one after the other; None counts as zeros. `numels` count real numbers.
// `sums`, if not None, takes what is measured of the gradient that `out` is then. Returns the index of the first tensor
// that is not plain, contiguous and in the vectors' memory; or -1, and only then something was written.
int64_t gather_vector(pybind11::handle out, const pybind11::list& tensors, const pybind11::list& weights,
                      const pybind11::list& numels, pybind11::handle direction, pybind11::handle previous,
                      pybind11::handle sums, int threads);

// tensor = base + t * weight * direction, or base where the direction is None. Returns as gather_vector.
int64_t scatter_vector(const pybind11::list& tensors, const pybind11::list& weights, const pybind11::list& numels,
                       pybind11::handle base, pybind11::handle direction, double t, int threads);

// Products of a history with the gradient and, unless `previous` is None, with the change since then: [row][2], of all
// steps, then of all changes. The newest pair is written with it, as t * direction and that change.
void history_products(pybind11::handle products, const pybind11::list& steps, const pybind11::list& changes,
                      pybind11::handle grad, pybind11::handle previous, pybind11::handle direction, double t,
                      int threads);

// The coefficients of L-BFGS's direction (vectors/solve.h). The matrices have one row for each pair that fits.
void history_coefficients(pybind11::handle coefficients, pybind11::handle step_changes, pybind11::handle change_changes,
                          pybind11::handle products, int64_t count, int64_t first, bool adds);

// out = coefficients[0] * grad + the sum of all rows, each times its coefficient; and the sums of that direction.
void combine_vectors(pybind11::handle out, pybind11::handle sums, pybind11::handle grad, const pybind11::list& rows,
                     pybind11::handle coefficients, int threads);

}  // namespace fastopt
