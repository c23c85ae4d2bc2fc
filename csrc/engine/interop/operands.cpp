#include "engine/interop/operands.h"

#include "engine/interop/huge_pages.h"

namespace py = pybind11;

namespace fastopt {

bool take(py::handle tensor, TensorView& out) {
    return view(tensor.ptr(), out) && !is_negated(tensor.ptr()) && is_dense(out);
}

bool take_like(py::handle tensor, const TensorView& like, TensorView& out) {
    return take(tensor, out) && out.device == like.device && out.type == like.type && same_layout(out, like);
}

bool take_out(py::handle tensor, const TensorView& like, TensorView& out) {
    return view(tensor.ptr(), out) && out.device == like.device && out.type == like.type && same_layout(out, like);
}

void expect_first_write(const TensorView& result) {
    expect_first_write(result.data, static_cast<size_t>(result.numel * element_size(result.type)));
}

}  // namespace fastopt
