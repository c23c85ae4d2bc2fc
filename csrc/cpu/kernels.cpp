// The CPU pipeline, compiled once per ISA (CMakeLists.txt). Everything but the table is in an
// anonymous namespace, and nothing from the standard library is included: an inline function shared
// with another ISA's file could be linked into it and run on a CPU that lacks the instructions.
#include "kernels.h"

#include "../rules/list.h"
#include "../rules/prologue.h"
#include "convert.h"

// Rows of a block never alias: overlap.cpp finds tensors that share memory, and the step is refused.
#if defined(__clang__)
#define FASTOPT_VECTORIZE _Pragma("clang loop vectorize(assume_safety)")
#else
#define FASTOPT_VECTORIZE _Pragma("GCC ivdep")
#endif

namespace fastopt {
namespace {

// Elements per block: the buffers of five half-precision operands stay in a 32 KiB L1.
constexpr int kBlock = 1024;

template <class T>
constexpr DType kNative = DType::f32;
template <>
constexpr DType kNative<double> = DType::f64;

template <template <class> class Scalars, class T>
Scalars<T> round_scalars(const double* values) {
    constexpr int count = sizeof(Scalars<T>) / sizeof(T);
    static_assert(count <= kMaxScalars);
    T rounded[count];
    for (int i = 0; i < count; ++i) rounded[i] = T(values[i]);
    Scalars<T> scalars;
    __builtin_memcpy(&scalars, rounded, sizeof scalars);
    return scalars;
}

// Elements [at, at + n) in the compute type: the tensor's own memory where it has that type.
template <class T>
T* load(const Array& array, int64_t at, int n, T* buffer) {
    if (array.type == kNative<T>) return static_cast<T*>(array.data) + at;
    if constexpr (sizeof(T) == sizeof(float)) {
        const uint16_t* half = static_cast<const uint16_t*>(array.data) + at;
        if (array.type == DType::bf16)
            widen<BFloat16>(half, buffer, n);
        else
            widen<Float16>(half, buffer, n);
    }
    return buffer;
}

template <class T>
void store(const Array& array, int64_t at, int n, const T* values) {
    if (array.type == kNative<T>) {
        T* own = static_cast<T*>(array.data) + at;
        if (own != values) __builtin_memcpy(own, values, static_cast<size_t>(n) * sizeof(T));
        return;
    }
    if constexpr (sizeof(T) == sizeof(float)) {
        uint16_t* half = static_cast<uint16_t*>(array.data) + at;
        if (array.type == DType::bf16)
            narrow<BFloat16>(values, half, n);
        else
            narrow<Float16>(values, half, n);
    }
}

template <class Rule, class T>
FASTOPT_HD void update_span(T* __restrict param, const T* __restrict grad, T* const* states, int begin, int end,
                            const Prologue::Scalars<T>& common, const typename Rule::template Scalars<T>& scalars) {
    constexpr int rows = Rule::states > 0 ? Rule::states : 1;
    T* state_rows[rows];
    for (int k = 0; k < Rule::states; ++k) state_rows[k] = states[k];
    FASTOPT_VECTORIZE
    for (int i = begin; i < end; ++i) {
        T state[rows];
        for (int k = 0; k < Rule::states; ++k) state[k] = state_rows[k][i];
        T value = Prologue::decayed(param[i], common);
        Rule::update(value, grad[i], state, scalars);
        param[i] = value;
        for (int k = 0; k < Rule::states; ++k) state_rows[k][i] = state[k];
    }
}

// How far ahead the rows of a tile are prefetched: hardware prefetchers stop at every 4 KiB page, and
// there are several rows. Worth 5 to 12 % in DRAM, and not measurable in cache.
template <class T>
constexpr int kAhead = 8192 / sizeof(T);

template <class Rule, class T>
void update_block(T* param, const T* grad, T* const* states, int n, bool prefetch, const Prologue::Scalars<T>& common,
                  const typename Rule::template Scalars<T>& scalars) {
    constexpr int kSpan = 64, kLine = 64 / sizeof(T);
    int at = 0;
    for (; prefetch && at + kSpan <= n; at += kSpan) {
        for (int line = at + kAhead<T>; line < at + kAhead<T> + kSpan; line += kLine) {
            __builtin_prefetch(param + line);
            __builtin_prefetch(grad + line);
            for (int k = 0; k < Rule::states; ++k) __builtin_prefetch(states[k] + line);
        }
        update_span<Rule>(param, grad, states, at, at + kSpan, common, scalars);
    }
    update_span<Rule>(param, grad, states, at, n, common, scalars);
}

// load, prologue, rule, store over the elements [begin, end) of one parameter, block by block.
template <class Rule, class T>
void step(const Task& task, int64_t begin, int64_t end) {
    const auto common = round_scalars<Prologue::Scalars, T>(task.constants->prologue);
    const auto scalars = round_scalars<Rule::template Scalars, T>(task.constants->rule);
    const bool unscale = task.constants->unscales;
    const bool own_grad = unscale || Prologue::changes_grad(common);
    alignas(64) T param_buffer[kBlock];
    alignas(64) T grad_buffer[kBlock];
    alignas(64) T state_buffers[Rule::states > 0 ? Rule::states : 1][kBlock];

    for (int64_t at = begin; at < end; at += kBlock) {
        const int n = int(end - at < kBlock ? end - at : kBlock);
        T* param = load(task.param, at, n, param_buffer);
        T* grad = load(task.grad, at, n, grad_buffer);
        T* states[Rule::states > 0 ? Rule::states : 1];
        for (int k = 0; k < Rule::states; ++k) states[k] = load(task.states[k], at, n, state_buffers[k]);

        if (own_grad && grad != grad_buffer) {
            __builtin_memcpy(grad_buffer, grad, static_cast<size_t>(n) * sizeof(T));
            grad = grad_buffer;
        }
        if (unscale) {
            Prologue::unscale(grad, n, common);
            store(task.grad, at, n, grad);
        }
        Prologue::gradient(param, grad, n, common);
        // Never past the tile's end: those lines may be in another worker's cache, being written.
        const bool prefetch = end - at >= kAhead<T> + kBlock;
        update_block<Rule>(param, grad, states, n, prefetch, common, scalars);

        store(task.param, at, n, param);
        for (int k = 0; k < Rule::states; ++k) store(task.states[k], at, n, states[k]);
    }
}

#define FASTOPT_ENTRY(name, ...) \
    {name, __VA_ARGS__::scalar_names, __VA_ARGS__::states, step<__VA_ARGS__, float>, step<__VA_ARGS__, double>},

const RuleEntry rules[] = {FASTOPT_RULES(FASTOPT_ENTRY)};

#define FASTOPT_TEXT_(a) #a
#define FASTOPT_TEXT(a) FASTOPT_TEXT_(a)
#define FASTOPT_JOIN_(a, b) a##b
#define FASTOPT_JOIN(a, b) FASTOPT_JOIN_(a, b)

const KernelTable table = {FASTOPT_TEXT(FASTOPT_ISA), rules, sizeof rules / sizeof rules[0], Prologue::scalar_names};

}  // namespace
}  // namespace fastopt

extern "C" const fastopt::KernelTable* FASTOPT_JOIN(fastopt_kernels_, FASTOPT_ISA)() { return &fastopt::table; }
