// out = activation(z). Bytes per element, float32: 8, with a residual 12. The sum of two operands: 12.
#include "cuda/norm/elements.h"

namespace fastopt::cuda {
namespace {

template <class Activation>
struct Apply {
    static constexpr bool costly = Activation::costly;
    static constexpr bool projects = false;
    static constexpr int vectors = 2;  // that a thread loads at a time

    template <class Access>
    struct Operands {
        typename Access::Memory x, residual;
        __device__ __forceinline__ void load(const NormTask& task, int64_t at) {
            residual = {};
            Access::load(task.input, at, x);
            if (task.residual.data != nullptr) Access::load(task.residual, at, residual);
        }
    };

    template <class Access, class Numbers>
    __device__ __forceinline__ static void run(const NormTask& task, int64_t at, const Operands<Access>& operands,
                                               Numbers numbers) {
        using T = typename Access::Compute;
        T x[Access::width], residual[Access::width];
        const bool adds = task.residual.data != nullptr;
        const T slope = T(task.negative_slope);
        Access::unpack(operands.x, x);
        Access::unpack(operands.residual, residual);
        for (int k = 0; k < Access::width; ++k)
            x[k] = Activation::value(z_of(x[k], numbers(k).of, adds, residual[k]), slope);
        Access::store(task.out, at, x);
    }
};

#define FASTOPT_APPLY(name, Activation) element_kernels<Apply<Activation>>,
constexpr ElementKernels kernels[] = {FASTOPT_ACTIVATIONS(FASTOPT_APPLY)};

// A sum of two operands, rounded to their type. Elements after the last vector go one by one.
template <class Access>
__global__ void __launch_bounds__(kThreads) add(Array first, Array second, Array sum, int64_t n) {
    using T = typename Access::Compute;
    const auto add_at = [&](auto access, int64_t at) {
        using Own = decltype(access);
        typename Own::Memory memory[2];
        T x[Own::width], other[Own::width];
        Own::load(first, at, memory[0]);
        Own::load(second, at, memory[1]);
        Own::unpack(memory[0], x);
        Own::unpack(memory[1], other);
        for (int k = 0; k < Own::width; ++k) x[k] += other[k];
        Own::store(sum, at, x);
    };
    const int64_t v = int64_t(blockIdx.x) * kThreads + threadIdx.x, vectors = n / Access::width;
    if (v < vectors) return add_at(Access(), v * Access::width);
    if (v - vectors < n % Access::width) add_at(Singles<T>(), vectors * Access::width + v - vectors);
}

using AddKernel = void (*)(Array, Array, Array, int64_t);
constexpr AddKernel add_vectors[4] = {add<Vectors<Plain<float>>>, add<Vectors<Plain<double>>>,
                                      add<Vectors<Narrow<BFloat16>>>, add<Vectors<Narrow<Float16>>>};
constexpr AddKernel add_singles[2] = {add<Singles<float>>, add<Singles<double>>};

}  // namespace

void norm_add(const Stream& stream, const NormTask& task, int64_t n) {
    const DType type = task.input.type;
    const Array &first = task.summands[0], &second = task.summands[1];
    const bool aligned = is_aligned(first.data) && is_aligned(second.data) && is_aligned(task.input.data);
    const int width = aligned ? width_of(type) : 1;
    const AddKernel kernel = aligned ? add_vectors[int(type)] : add_singles[type == DType::f64];
    launch(stream, "sum", kernel, {ceil_div(n / width + n % width, kThreads), kThreads}, first, second, task.input, n);
}

void norm_apply(const Stream& stream, const NormTask& task) {
    run_elements(stream, "normalization", kernels[task.activation], task, task.input, task.residual, task.out);
}

}  // namespace fastopt::cuda
