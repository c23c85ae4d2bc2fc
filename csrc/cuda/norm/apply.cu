// out = activation(z). Bytes per element, float32: 8, with a residual 12.
#include "cuda/norm/elements.h"

namespace fastopt::cuda {
namespace {

template <class Activation>
struct Apply {
    static constexpr bool projects = false;

    template <class Access, class Numbers>
    __device__ __forceinline__ static void run(const NormTask& task, int64_t at, Numbers numbers) {
        using T = typename Access::Compute;
        T x[Access::width], residual[Access::width] = {};
        const bool adds = task.residual.data != nullptr;
        const T slope = T(task.negative_slope);
        Access::load(task.input, at, x);
        if (adds) Access::load(task.residual, at, residual);
        for (int k = 0; k < Access::width; ++k)
            x[k] = Activation::value(z_of(x[k], numbers(k).of, adds, residual[k]), slope);
        Access::store(task.out, at, x);
    }
};

#define FASTOPT_APPLY(name, Activation) element_kernels<Apply<Activation>>,
constexpr ElementKernels kernels[] = {FASTOPT_ACTIVATIONS(FASTOPT_APPLY)};

}  // namespace

void norm_apply(const Stream& stream, const NormTask& task) {
    run_elements(stream, "normalization", kernels[task.activation], task, task.input, task.residual, task.out);
}

}  // namespace fastopt::cuda
