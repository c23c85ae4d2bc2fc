// The gradients of input and residual. Bytes per element, float32: 12; with a residual 20, or 12 where the sums have
// stored the gradient of z.
#include "cuda/norm/elements.h"

namespace fastopt::cuda {
namespace {

template <class Activation>
struct Gradient {
    static constexpr bool projects = true;

    template <class Access, class Numbers>
    __device__ __forceinline__ static void run(const NormTask& task, int64_t at, Numbers numbers) {
        using T = typename Access::Compute;
        T x[Access::width] = {}, grad[Access::width], residual[Access::width] = {};
        const bool kept = task.kept.data != nullptr, enters = !kPasses<Activation> && !kept;
        const bool writes = task.grad_input.data != nullptr, projects_grad = writes && task.batch;
        Access::load(kept ? task.kept : task.grad, at, grad);
        if (enters || projects_grad) Access::load(task.input, at, x);
        if constexpr (!kPasses<Activation>) {
            if (enters) {
                const bool adds = task.residual.data != nullptr;
                const T slope = T(task.negative_slope);
                if (adds) Access::load(task.residual, at, residual);
                for (int k = 0; k < Access::width; ++k)
                    grad[k] = Activation::gradient(z_of(x[k], numbers(k).of, adds, residual[k]), grad[k], slope);
            }
            if (task.grad_residual.data != nullptr && !kept) Access::store(task.grad_residual, at, grad);
        }
        if (!writes) return;
        for (int k = 0; k < Access::width; ++k) {
            const auto own = numbers(k);
            grad[k] = projects_grad
                          ? projected(grad[k], x[k], own.of.center, own.of.scale, own.less.mean, own.less.slope)
                          : grad[k] * own.of.scale;
        }
        if (task.grad_sum.data != nullptr) {  // loaded late: registers for it would slow down those who have none
            Access::load(task.grad_sum, at, x);
            for (int k = 0; k < Access::width; ++k) grad[k] += x[k];
        }
        Access::store(task.grad_input, at, grad);
    }
};

#define FASTOPT_GRADIENT(name, Activation) element_kernels<Gradient<Activation>>,
constexpr ElementKernels kernels[] = {FASTOPT_ACTIVATIONS(FASTOPT_GRADIENT)};

}  // namespace

void norm_gradient(const Stream& stream, const NormTask& task) {
    run_elements(stream, "gradient", kernels[task.activation], task, task.input, task.residual, task.grad, task.kept,
                 task.grad_input, task.grad_residual, task.grad_sum);
}

}  // namespace fastopt::cuda
