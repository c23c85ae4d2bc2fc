// fastopt._core: registration only.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cuda/engine.h"
#include "engine/dropout/dropout.h"
#include "engine/interop/operands.h"
#include "engine/interop/tensor.h"
#include "engine/norm/batch_norm.h"
#include "engine/norm/norm.h"
#include "engine/optim/program.h"
#include "engine/optim/rows.h"
#include "engine/optim/rule_table.h"
#include "engine/optim/step.h"
#include "engine/vectors/vectors.h"
#include "engine/workers/dispatch.h"
#include "engine/workers/threads.h"
#include "engine/workers/tuning.h"

namespace py = pybind11;
using namespace fastopt;

namespace {

py::dict built() {
    py::dict d;
    d["isa"] = built_isas();
    d["compiler"] = FASTOPT_COMPILER;
    d["pybind11"] = PYBIND11_TOSTRING(PYBIND11_VERSION_MAJOR) "." PYBIND11_TOSTRING(PYBIND11_VERSION_MINOR);
    if (const std::string toolkit = cuda::built(); toolkit.empty())
        d["cuda"] = false;
    else
        d["cuda"] =
            toolkit + " (" FASTOPT_CUDA_ARCHITECTURES "), for drivers of CUDA " + cuda::oldest_driver() + " or later";
    d["cuda_reason"] = FASTOPT_CUDA_REASON;
    return d;
}

void register_runtime(py::module_& m) {
    m.attr("__version__") = FASTOPT_VERSION;
    m.attr("emulates_cuda") = cuda::device_of_host() != kHost;
    m.def("built", &built);
    m.def("refusal_of_driver", &cuda::refusal_of_driver, py::arg("version"));
    m.def("detected_isas", &detected_isas);
    m.def("isa_in_use", &isa_in_use);
    m.def("use_isa", &use_isa, py::arg("name"));
    m.def("find_openmp", &find_openmp, py::arg("libtorch"));
    m.def("openmp_runtime", &openmp_runtime);
    m.def("forked", &forked);
}

void register_tensors(py::module_& m) {
    m.def("set_torch", &set_torch, py::arg("torch"), py::arg("increment_version"), py::arg("allocate"),
          py::arg("current_stream"));
    m.def("expect_first_write", [](const py::object& tensor) {
        TensorView v;
        if (view(tensor.ptr(), v) && v.on_host) expect_first_write(v);
    });
    m.def("sum_rows", &sum_rows, py::arg("numbers"), py::arg("values"), py::arg("out_numbers"), py::arg("out_values"),
          py::arg("threads"));
    m.def("copy_rows", &copy_rows, py::arg("tensor"), py::arg("numbers"), py::arg("rows"), py::arg("back"),
          py::arg("threads"));
    m.def("use_intake", &use_intake, py::arg("name"));
    m.def("intake_in_use", &intake_in_use);
    m.def("tune", &tune, py::arg("name"), py::arg("value"));
    m.def("tuning", [] {
        py::dict values;
        for (const auto& [name, value] : tuning()) values[name.c_str()] = value;
        return values;
    });
    m.def("cpu_vendor", &cpu_vendor);
    m.def("last_cache", &last_cache);
    m.def("count", &count, py::arg("counter"));
}

void register_step(py::module_& m) {
    m.def("rules", &describe_rules);
    m.def("prologue", [] { return prologue_names().as_tuple(); });
    m.def("evaluate_program", &evaluate_program, py::arg("program"), py::arg("rule"), py::arg("inputs"));
    py::class_<Step>(m, "Step", py::module_local())
        .def(py::init<>())
        .def("depend_on", &Step::depend_on, py::arg("loss_scale"), py::arg("found_inf"))
        .def("add_group", &Step::add_group, py::arg("update"), py::arg("prologue"), py::arg("max_grad_norm"),
             py::arg("scalars"), py::arg("params"), py::arg("state"), py::arg("learning_rate"),
             py::arg("storage") = py::none())
        .def("leave_statistics", &Step::leave_statistics, py::arg("table_of"), py::arg("first"), py::arg("indices"))
        .def("share", &Step::share, py::arg("numbers"))
        .def("add_prepared", &Step::add_prepared, py::arg("index"), py::arg("owner"), py::arg("param"), py::arg("grad"),
             py::arg("states"), py::arg("step"), py::arg("carried"), py::arg("t"), py::arg("storage") = py::none())
        .def("add_fresh", &Step::add_fresh, py::arg("index"), py::arg("param"), py::arg("entries"))
        .def("check_overlap_and_bump_versions", &Step::check_overlap_and_bump_versions)
        .def("norm", &Step::norm, py::arg("reduction"), py::arg("exponent"), py::arg("loss_scale"), py::arg("threads"))
        .def("clip", &Step::clip, py::arg("norm"))
        .def("run_some", &Step::run_some, py::arg("owners"), py::arg("threads"))
        .def("run", &Step::run, py::arg("threads"))
        .def("clear", &Step::clear);
}

void register_vectors(py::module_& m) {
    m.def("gather_vector", &gather_vector, py::arg("out"), py::arg("tensors"), py::arg("weights"), py::arg("numels"),
          py::arg("direction"), py::arg("previous"), py::arg("sums"), py::arg("threads"));
    m.def("scatter_vector", &scatter_vector, py::arg("tensors"), py::arg("weights"), py::arg("numels"), py::arg("base"),
          py::arg("direction"), py::arg("t"), py::arg("threads"));
    m.def("history_products", &history_products, py::arg("products"), py::arg("steps"), py::arg("changes"),
          py::arg("grad"), py::arg("previous"), py::arg("direction"), py::arg("t"), py::arg("threads"));
    m.def("history_coefficients", &history_coefficients, py::arg("coefficients"), py::arg("step_changes"),
          py::arg("change_changes"), py::arg("products"), py::arg("count"), py::arg("first"), py::arg("adds"));
    m.def("combine_vectors", &combine_vectors, py::arg("out"), py::arg("sums"), py::arg("grad"), py::arg("rows"),
          py::arg("coefficients"), py::arg("threads"));
}

void register_dropout(py::module_& m) {
    m.def("dropouts", &describe_dropouts);
    m.def("drop", &drop, py::arg("rule"), py::arg("out"), py::arg("input"), py::arg("residual"), py::arg("bias"),
          py::arg("mask_dims"), py::arg("seed"), py::arg("offset"), py::arg("threshold"), py::arg("scalars"),
          py::arg("threads"));
    m.def("drop_and_sum", &drop_and_sum, py::arg("grad_input"), py::arg("grad_bias"), py::arg("grad"), py::arg("seed"),
          py::arg("offset"), py::arg("threshold"), py::arg("scale"), py::arg("threads"));
    m.def("write_mask", &write_mask, py::arg("out"), py::arg("n"), py::arg("packed"), py::arg("seed"),
          py::arg("offset"), py::arg("threshold"), py::arg("threads"));
    m.def("philox_blocks", &philox_blocks, py::arg("out"), py::arg("key"), py::arg("first"), py::arg("counter_high"));
}

void register_batch_norm(py::module_& m) {
    m.def("activations", &activations);
    m.def("batch_norm", &batch_norm, py::arg("out"), py::arg("input"), py::arg("residual"), py::arg("weight"),
          py::arg("bias"), py::arg("running_mean"), py::arg("running_var"), py::arg("statistics"), py::arg("training"),
          py::arg("momentum"), py::arg("eps"), py::arg("activation"), py::arg("negative_slope"), py::arg("threads"));
    m.def("batch_norm_backward", &batch_norm_backward, py::arg("grad_input"), py::arg("grad_residual"),
          py::arg("grad_weight"), py::arg("grad_bias"), py::arg("grad"), py::arg("input"), py::arg("residual"),
          py::arg("weight"), py::arg("bias"), py::arg("statistics"), py::arg("batch"), py::arg("activation"),
          py::arg("negative_slope"), py::arg("threads"));
    m.def("batch_norm_moments", &batch_norm_moments, py::arg("moments"), py::arg("input"), py::arg("threads"));
    m.def("batch_norm_gather_stats", &batch_norm_gather_stats, py::arg("statistics"), py::arg("gathered"),
          py::arg("running_mean"), py::arg("running_var"), py::arg("momentum"), py::arg("eps"));
    m.def("batch_norm_apply", &batch_norm_apply, py::arg("out"), py::arg("input"), py::arg("residual"),
          py::arg("weight"), py::arg("bias"), py::arg("statistics"), py::arg("activation"), py::arg("negative_slope"),
          py::arg("threads"));
    m.def("batch_norm_sums", &batch_norm_sums, py::arg("sums"), py::arg("grad"), py::arg("input"), py::arg("residual"),
          py::arg("weight"), py::arg("bias"), py::arg("statistics"), py::arg("activation"), py::arg("negative_slope"),
          py::arg("threads"));
    m.def("batch_norm_gradient", &batch_norm_gradient, py::arg("grad_input"), py::arg("grad_residual"), py::arg("grad"),
          py::arg("input"), py::arg("residual"), py::arg("weight"), py::arg("bias"), py::arg("statistics"),
          py::arg("sums"), py::arg("activation"), py::arg("negative_slope"), py::arg("threads"));
}

void register_norm(py::module_& m) {
    m.def("norm", &norm, py::arg("out"), py::arg("sum"), py::arg("input"), py::arg("residual"), py::arg("weight"),
          py::arg("bias"), py::arg("statistics"), py::arg("kind"), py::arg("size"), py::arg("eps"),
          py::arg("activation"), py::arg("negative_slope"), py::arg("threads"));
    m.def("norm_backward", &norm_backward, py::arg("grad_input"), py::arg("grad_weight"), py::arg("grad_bias"),
          py::arg("grad"), py::arg("grad_sum"), py::arg("input"), py::arg("weight"), py::arg("bias"),
          py::arg("statistics"), py::arg("kind"), py::arg("size"), py::arg("activation"), py::arg("negative_slope"),
          py::arg("threads"));
}

}  // namespace

PYBIND11_MODULE(FASTOPT_MODULE, m) {
    m.doc() = "Native kernels of fastopt.";
    register_runtime(m);
    register_tensors(m);
    register_step(m);
    register_vectors(m);
    register_dropout(m);
    register_batch_norm(m);
    register_norm(m);
}
