// The gradients of input and residual. Bytes per element, float32: 12; with a residual 20, or 12 where the sums have
// stored the gradient of z.
#include "cuda/norm/elements.h"

namespace fastopt::cuda {
namespace {

template <class Activation>
struct Gradient {
    static constexpr bool costly = Activation::costly;
    static constexpr bool projects = true;
    static constexpr int vectors = 1;  // that a thread loads at a time

    // What a call asks for.
    struct Call {
        bool kept, enters, adds, writes, projects_grad;
        __device__ __forceinline__ explicit Call(const NormTask& task)
            : kept(task.kept.data != nullptr),
              enters(!kPasses<Activation> && !kept),
              adds(enters && task.residual.data != nullptr),
              writes(task.grad_input.data != nullptr),
              projects_grad(writes && task.batch) {}
    };

    template <class Access>
    struct Operands {
        typename Access::Memory x, grad, residual;
        __device__ __forceinline__ void load(const NormTask& task, int64_t at) {
            const Call call(task);
            x = residual = {};
            Access::load(call.kept ? task.kept : task.grad, at, grad);
            if (call.enters || call.projects_grad) Access::load(task.input, at, x);
            if (call.adds) Access::load(task.residual, at, residual);
        }
    };

    template <class Access, class Numbers>
    __device__ __forceinline__ static void run(const NormTask& task, int64_t at, const Operands<Access>& operands,
                                               Numbers numbers) {
        using T = typename Access::Compute;
        const Call call(task);
        T x[Access::width], grad[Access::width];
        Access::unpack(operands.grad, grad);
        Access::unpack(operands.x, x);
        if constexpr (!kPasses<Activation>) {
            if (call.enters) {
                T residual[Access::width];
                Access::unpack(operands.residual, residual);
                const T slope = T(task.negative_slope);
                for (int k = 0; k < Access::width; ++k)
                    grad[k] = Activation::gradient(z_of(x[k], numbers(k).of, call.adds, residual[k]), grad[k], slope);
            }
            if (task.grad_residual.data != nullptr && !call.kept) Access::store(task.grad_residual, at, grad);
        }
        if (!call.writes) return;
        for (int k = 0; k < Access::width; ++k) {
            const auto own = numbers(k);
            grad[k] = call.projects_grad
                          ? projected(grad[k], x[k], own.of.center, own.of.scale, own.less.mean, own.less.slope)
                          : grad[k] * own.of.scale;
        }
        if (task.grad_sum.data != nullptr) {  // loaded late: registers for it would slow down those who have none
            typename Access::Memory memory;
            Access::load(task.grad_sum, at, memory);
            Access::unpack(memory, x);
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
