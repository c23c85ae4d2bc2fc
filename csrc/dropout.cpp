#include "dropout.h"

#include <cstring>
#include <string>
#include <vector>

#include "cpu/dispatch.h"
#include "element.h"
#include "mask_layout.h"
#include "operands.h"
#include "rule_table.h"
#include "run_released.h"

namespace py = pybind11;

namespace fastopt {
namespace {

// The bias of a contiguous tensor: one element per column, that is per index of the last dimension.
bool take_bias(py::handle tensor, const TensorView& like, TensorView& out) {
    return take(tensor, out) && out.type == like.type && !out.complex && !like.complex && like.ndim > 0 &&
           is_contiguous(like) && out.ndim == 1 && out.sizes[0] == like.sizes[like.ndim - 1];
}

const DropoutEntry& find(const char* rule) {
    const DropoutTable& table = *kernels().dropout;
    for (int i = 0; i < table.count; ++i)
        if (std::strcmp(table.entries[i].name, rule) == 0) return table.entries[i];
    throw py::key_error(std::string("no rule '") + rule + "'");
}

void run_one(DropoutKernel kernel, const DropoutTask& task, int64_t units, int64_t elements_per_unit, int threads) {
    run_released<DropoutTask>({{kernel, &task, units, elements_per_unit}}, threads);
}

}  // namespace

py::dict describe_dropouts() {
    py::dict all;
    const DropoutTable& table = *kernels().dropout;
    for (int i = 0; i < table.count; ++i) {
        const DropoutEntry& entry = table.entries[i];
        all[py::str(entry.name)] =
            py::make_tuple(ScalarNames(entry.scalar_names).as_tuple(), entry.residual, entry.bias);
    }
    return all;
}

bool drop(const char* rule, py::handle out, py::handle input, py::handle residual, py::handle bias, int mask_dims,
          uint64_t seed, uint64_t offset, uint64_t threshold, const py::tuple& scalars, int threads) {
    const DropoutEntry& entry = find(rule);
    TensorView x, y, r, b;
    if (!take(input, x) || x.device != kHost || !take_out(out, x, y)) return false;
    if (entry.residual && !take_like(residual, x, r)) return false;
    if (entry.bias && !take_bias(bias, x, b)) return false;
    if (x.numel == 0) return true;

    MaskLayout layout;
    lay_out_mask(x, mask_dims, layout);
    DropoutTask task{};
    task.mask = {seed, offset, threshold};
    task.layout = &layout;
    task.input = array_of(x);
    task.out = array_of(y);
    if (entry.residual) task.residual = array_of(r);
    if (entry.bias) {
        task.bias = array_of(b);
        task.columns = b.numel;
    }
    for (size_t i = 0; i < scalars.size(); ++i) task.scalars[i] = scalars[i].cast<double>();
    if (x.data != y.data) expect_first_write(y);
    run_one(x.type == DType::f64 ? entry.f64 : entry.f32, task, layout.units, layout.elements_per_unit, threads);
    return true;
}

bool drop_and_sum(py::handle grad_input, py::handle grad_bias, py::handle grad, uint64_t seed, uint64_t offset,
                  uint64_t threshold, double scale, int threads) {
    TensorView g, x, b;
    if (!take(grad, g) || g.device != kHost || !take_bias(grad_bias, g, b)) return false;
    if (!absent(grad_input) && !take_out(grad_input, g, x)) return false;

    DropoutTask task{};
    task.mask = {seed, offset, threshold};
    task.input = array_of(g);
    task.out = {absent(grad_input) ? nullptr : x.data, g.type};
    task.columns = b.numel;
    task.rows = task.columns == 0 ? 0 : g.numel / task.columns;
    task.scalars[0] = scale;
    const int64_t blocks = (task.rows + kSumRows - 1) / kSumRows;
    const int64_t across = (task.columns + kSumColumns - 1) / kSumColumns;
    std::vector<double> sums(static_cast<size_t>(blocks * task.columns));
    task.column_sums = sums.data();
    if (!absent(grad_input)) expect_first_write(x);
    const DropoutTable& table = *kernels().dropout;
    if (g.numel > 0)
        run_one(g.type == DType::f64 ? table.sum_f64 : table.sum_f32, task, blocks * across,
                std::min(task.rows, kSumRows) * std::min(task.columns, kSumColumns), threads);
    for (int64_t c = 0; c < task.columns; ++c) {
        double sum = 0;
        for (int64_t block = 0; block < blocks; ++block) sum += sums[static_cast<size_t>(block * task.columns + c)];
        set_element(array_of(b), c, sum);
    }
    return true;
}

void write_mask(const py::object& out, int64_t n, bool packed, uint64_t seed, uint64_t offset, uint64_t threshold,
                int threads) {
    DropoutTask task{};
    task.mask = {seed, offset, threshold};
    task.out.data = reinterpret_cast<void*>(out.attr("data_ptr")().cast<uintptr_t>());
    const DropoutTable& table = *kernels().dropout;
    run_one(packed ? table.packed : table.flags, task, n, 1, threads);
}

py::bytes philox_blocks(uint64_t key, uint64_t first, uint64_t counter_high, int64_t count) {
    std::vector<uint32_t> words(static_cast<size_t>(count) * 4);
    DropoutTask task{};
    task.mask = {key, counter_high, 0};
    task.out.data = words.data();
    kernels().dropout->blocks(task, static_cast<int64_t>(first),
                              static_cast<int64_t>(first + static_cast<uint64_t>(count)));
    return py::bytes(reinterpret_cast<const char*>(words.data()), words.size() * sizeof(uint32_t));
}

}  // namespace fastopt
