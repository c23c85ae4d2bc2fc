// A build without CUDA compiles only this file of the folder. The functions that throw are never reached, because
// tensor.cpp takes no tensor on a device.
#include <stdexcept>

#include "cuda/engine.h"

namespace fastopt::cuda {
namespace {

[[noreturn]] void absent() { throw std::runtime_error("fastopt was built without CUDA"); }

}  // namespace

std::string built() { return ""; }

std::string oldest_driver() { return ""; }

std::string refusal_of_driver(int) { return "built without CUDA"; }

void upload_scalars(const Stream&, const Constants*, int, const DeviceInputs&, ScalarSet*) { absent(); }
void evaluate_scalars(const Stream&, const Program&, const Array&, const Constants&, const Counter*, int,
                      const DeviceInputs&, const double*, ScalarSet*) {
    absent();
}
void upload(const Stream&, const void*, size_t, void*) { absent(); }
void update(const Stream&, int, const Task* const*, int) { absent(); }
void write_statistics(const Stream&, const Task* const*, int, double*, int64_t, const DeviceInputs&) { absent(); }
void reduce(const Stream&, int, double, const Task* const*, int) { absent(); }
void join(const Stream&, int, double, const double*, int64_t, const DeviceInputs&, double, double*) { absent(); }
void norm_moments(const Stream&, const NormTask&) { absent(); }
void norm_sums(const Stream&, const NormTask&) { absent(); }
void norm_finalize(const Stream&, const NormTask&, NormSource) { absent(); }
void norm_add(const Stream&, const NormTask&, int64_t) { absent(); }
void norm_apply(const Stream&, const NormTask&) { absent(); }
void norm_gradient(const Stream&, const NormTask&) { absent(); }
void norm_rows(const Stream&, const NormTask&, bool) { absent(); }
void norm_row_gradient(const Stream&, const NormTask&, bool) { absent(); }
void norm_row_columns(const Stream&, const NormTask&, bool) { absent(); }
void gather_vector(const Stream&, const VectorTask&) { absent(); }
void scatter_vector(const Stream&, const VectorTask&) { absent(); }
void multiply_history(const Stream&, const VectorTask&) { absent(); }
void combine_rows(const Stream&, const VectorTask&) { absent(); }
void solve_history(const Stream&, const History&) { absent(); }
void drop(const Stream&, int, const DropoutTask&) { absent(); }
void drop_and_sum(const Stream&, const DropoutTask&, const Array&) { absent(); }
void write_mask(const Stream&, const DropoutTask&, int64_t, bool) { absent(); }
void write_blocks(const Stream&, const DropoutTask&, uint64_t, int64_t) { absent(); }

}  // namespace fastopt::cuda
