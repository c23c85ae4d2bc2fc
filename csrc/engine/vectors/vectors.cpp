#include "engine/vectors/vectors.h"

#include <stdexcept>

#include "engine/vectors/call.h"
#include "vectors/solve.h"

namespace py = pybind11;

namespace fastopt {

int64_t gather_vector(py::handle out, const py::list& tensors, const py::list& weights, const py::list& numels,
                      py::handle direction, py::handle previous, py::handle sums, int threads) {
    VectorCall call(out, threads);
    if (const int64_t refused = call.take_segments(tensors, weights, numels); refused >= 0) return refused;
    VectorTask& task = call.task;
    task.out = call.vector(out);
    task.direction = call.vector(direction);
    task.previous = call.vector(previous);
    task.measures = !absent(sums);
    if ((task.direction == nullptr) != (task.previous == nullptr))
        throw std::runtime_error("a direction goes with the gradient before it");
    if (task.measures) {
        task.sums = call.numbers(sums, kGradientSums);
        call.make_partials(kGradientSums);
    }
    if (call.on_device()) {
        call.start(cuda::gather_vector);
        return -1;
    }
    call.run(&VectorKernels::gather, task.chunks, task.chunk);
    if (task.measures) call.join(&VectorKernels::join_gathered, kGradientSums);
    return -1;
}

int64_t scatter_vector(const py::list& tensors, const py::list& weights, const py::list& numels, py::handle base,
                       py::handle direction, double t, int threads) {
    VectorCall call(base, threads);
    if (const int64_t refused = call.take_segments(tensors, weights, numels); refused >= 0) return refused;
    call.task.base = call.vector(base);
    call.task.direction = call.vector(direction);
    call.task.t = t;
    increment_version(tensors);
    if (call.on_device())
        call.start(cuda::scatter_vector);
    else
        call.run(&VectorKernels::scatter, call.task.chunks, call.task.chunk);
    return -1;
}

void history_products(py::handle products, const py::list& steps, const py::list& changes, py::handle grad,
                      py::handle previous, py::handle direction, double t, int threads) {
    VectorCall call(grad, threads);
    if (steps.size() != changes.size()) throw std::runtime_error("a history has a change for each step");
    call.add_rows(steps);
    call.add_rows(changes);
    VectorTask& task = call.task;
    task.grad = call.vector(grad);
    task.previous = call.vector(previous);
    task.direction = call.vector(direction);
    task.t = t;
    if ((task.direction == nullptr) != (task.previous == nullptr))
        throw std::runtime_error("a direction goes with the gradient before it");
    task.sums = call.numbers(products, 2 * task.row_count);
    task.measures = task.previous != nullptr;
    call.make_partials(2 * task.row_count);
    if (call.on_device()) return call.start(cuda::multiply_history);
    const int64_t groups = (task.row_count + kRowGroup - 1) / kRowGroup;
    call.run(&VectorKernels::multiply, task.chunks * groups, task.chunk * kRowGroup);
    call.join(&VectorKernels::join_multiplied, 2 * task.row_count);
}

void history_coefficients(py::handle coefficients, py::handle step_changes, py::handle change_changes,
                          py::handle products, int64_t count, int64_t first, bool adds) {
    VectorCall call(coefficients, 1);
    TensorView matrix;
    if (!take(step_changes, matrix) || matrix.ndim != 2 || matrix.sizes[0] < count || first < 0 ||
        first >= matrix.sizes[0] || count < 1)
        throw std::runtime_error("a history's matrices have a row for each pair");
    const int64_t capacity = matrix.sizes[0];
    const History history{count,
                          first,
                          capacity,
                          call.numbers(step_changes, capacity * capacity),
                          call.numbers(change_changes, capacity * capacity),
                          call.numbers(products, 4 * count),
                          call.numbers(coefficients, 1 + 2 * count),
                          adds};
    if (call.on_device()) return cuda::solve_history(call.stream(), history);
    solve(history, [](int64_t n, auto f) {
        for (int64_t i = 0; i < n; ++i) f(i);
    });
}

void combine_vectors(py::handle out, py::handle sums, py::handle grad, const py::list& rows, py::handle coefficients,
                     int threads) {
    VectorCall call(grad, threads);
    call.add_rows(rows);
    VectorTask& task = call.task;
    task.out = call.vector(out);
    task.grad = call.vector(grad);
    task.coefficients = call.numbers(coefficients, 1 + task.row_count);
    task.sums = call.numbers(sums, kDirectionSums);
    call.make_partials(kDirectionSums);
    if (call.on_device()) return call.start(cuda::combine_rows);
    call.run(&VectorKernels::combine, task.chunks, task.chunk * (task.row_count + 1));
    call.join(&VectorKernels::join_combined, kDirectionSums);
}

}  // namespace fastopt
