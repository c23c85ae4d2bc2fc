#include "engine/dropout/dropout.h"

#include <cstring>
#include <string>
#include <vector>

#include "engine/dropout/mask_layout.h"
#include "engine/interop/operands.h"
#include "engine/interop/run_without_gil.h"
#include "engine/interop/scalar_names.h"
#include "engine/interop/stream.h"
#include "engine/workers/dispatch.h"
#include "math/element.h"

namespace py = pybind11;

namespace fastopt {
namespace {

// Takes the bias of a contiguous tensor: one element per index of the last dimension.
bool take_bias(py::handle tensor, const TensorView& like, TensorView& out) {
    return take(tensor, out) && out.device == like.device && out.type == like.type && !out.complex && !like.complex &&
           like.ndim > 0 && is_contiguous(like) && out.ndim == 1 && out.sizes[0] == like.sizes[like.ndim - 1];
}

int find(const char* rule) {
    const DropoutTable& table = *kernels().dropout;
    for (int i = 0; i < table.count; ++i)
        if (std::strcmp(table.entries[i].name, rule) == 0) return i;
    throw py::key_error(std::string("no rule '") + rule + "'");
}

// Sets the mask for memory of `device`. The seed is a number or, where only that device knows it, a tensor.
void set_mask(DropoutTask& task, int device, py::handle seed, uint64_t offset, uint64_t threshold) {
    task.mask = {0, offset, threshold};
    if (PyLong_Check(seed.ptr())) {
        task.mask.seed = seed.cast<uint64_t>();
        return;
    }
    const Memory memory = memory_of(seed);
    if (device == kHost || memory.device != device)
        throw py::type_error("a seed that is a tensor has to be on the CUDA device of the input");
    task.seed = static_cast<const uint64_t*>(memory.data);
}

void run_one(DropoutKernel kernel, const DropoutTask& task, int64_t units, int64_t elements_per_unit, int threads) {
    run_released<DropoutTask>({{kernel, &task, units, elements_per_unit}}, threads);
}

void drop_and_sum_on_host(DropoutTask& task, const Array& grad_bias, int64_t blocks, int threads) {
    std::vector<double> sums(static_cast<size_t>(blocks * task.columns)), total(static_cast<size_t>(task.columns));
    task.column_sums = sums.data();
    const int64_t across = (task.columns + kSumColumns - 1) / kSumColumns;
    const DropoutTable& table = *kernels().dropout;
    if (blocks > 0)
        run_one(task.input.type == DType::f64 ? table.sum_f64 : table.sum_f32, task, blocks * across,
                std::min(task.rows, kSumRows) * std::min(task.columns, kSumColumns), threads);
    auto next = sums.cbegin();
    for (int64_t block = 0; block < blocks; ++block)
        for (double& sum : total) sum += *next++;
    for (int64_t c = 0; c < task.columns; ++c) set_element(grad_bias, c, total[static_cast<size_t>(c)]);
}

void drop_and_sum_on(int device, DropoutTask& task, const Array& grad_bias, int64_t blocks) {
    const cuda::Stream stream = stream_of(device);
    const DeviceMemory sums = allocate(device, static_cast<size_t>(blocks * task.columns) * sizeof(double));
    task.column_sums = static_cast<double*>(sums.data);
    const py::gil_scoped_release released;
    cuda::drop_and_sum(stream, task, grad_bias);
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
          py::handle seed, uint64_t offset, uint64_t threshold, const py::tuple& scalars, int threads) {
    const int row = find(rule);
    const DropoutEntry& entry = kernels().dropout->entries[row];
    TensorView x, y, r, b;
    if (!take(input, x) || !take_out(out, x, y)) return false;
    if (entry.residual && !take_like(residual, x, r)) return false;
    if (entry.bias && !take_bias(bias, x, b)) return false;
    if (x.numel == 0) return true;

    MaskLayout layout;
    lay_out_mask(x, mask_dims, layout);
    DropoutTask task{};
    set_mask(task, x.device, seed, offset, threshold);
    task.layout = &layout;
    task.input = array_of(x);
    task.out = array_of(y);
    if (entry.residual) task.residual = array_of(r);
    if (entry.bias) {
        task.bias = array_of(b);
        task.columns = b.numel;
    }
    for (size_t i = 0; i < scalars.size(); ++i) task.scalars[i] = scalars[i].cast<double>();
    if (x.device != kHost) {
        const cuda::Stream stream = stream_of(x.device);
        const py::gil_scoped_release released;
        cuda::drop(stream, row, task);
        return true;
    }
    if (x.data != y.data) expect_first_write(y);
    run_one(x.type == DType::f64 ? entry.f64 : entry.f32, task, layout.units, layout.elements_per_unit, threads);
    return true;
}

bool drop_and_sum(py::handle grad_input, py::handle grad_bias, py::handle grad, py::handle seed, uint64_t offset,
                  uint64_t threshold, double scale, int threads) {
    TensorView g, x, b;
    if (!take(grad, g) || !take_bias(grad_bias, g, b)) return false;
    if (!absent(grad_input) && !take_out(grad_input, g, x)) return false;
    if (b.numel == 0) return true;

    DropoutTask task{};
    set_mask(task, g.device, seed, offset, threshold);
    task.input = array_of(g);
    task.out = {absent(grad_input) ? nullptr : x.data, g.type};
    task.columns = b.numel;
    task.rows = g.numel / task.columns;
    task.scalars[0] = scale;
    const int64_t blocks = (task.rows + kSumRows - 1) / kSumRows;
    if (g.device != kHost) {
        drop_and_sum_on(g.device, task, array_of(b), blocks);
        return true;
    }
    if (!absent(grad_input)) expect_first_write(x);
    drop_and_sum_on_host(task, array_of(b), blocks, threads);
    return true;
}

void write_mask(py::handle out, int64_t n, bool packed, py::handle seed, uint64_t offset, uint64_t threshold,
                int threads) {
    const Memory memory = memory_of(out);
    DropoutTask task{};
    set_mask(task, memory.device, seed, offset, threshold);
    task.out.data = memory.data;
    if (memory.device != kHost) return cuda::write_mask(stream_of(memory.device), task, n, packed);
    const DropoutTable& table = *kernels().dropout;
    run_one(packed ? table.packed : table.flags, task, n, 1, threads);
}

void philox_blocks(py::handle out, uint64_t key, uint64_t first, uint64_t counter_high) {
    const Memory memory = memory_of(out);
    const auto count = out.attr("numel")().cast<int64_t>() / 4;
    DropoutTask task{};
    task.mask = {key, counter_high, 0};
    task.out.data = memory.data;
    if (memory.device != kHost) return cuda::write_blocks(stream_of(memory.device), task, first, count);
    kernels().dropout->blocks(task, static_cast<int64_t>(first),
                              static_cast<int64_t>(first + static_cast<uint64_t>(count)));
}

}  // namespace fastopt
