// The step of every rule of one pass. Compiled in kParts parts, so that a build uses several cores: part k has the
// rules whose row in the table is k modulo kParts.
#include <vector>

#include "../rules/list.h"
#include "elementwise.h"
#include "rule_parts.h"

namespace fastopt::cuda {
namespace {

using Update = void (*)(const Stream&, const Task* const* tasks, int count);

// How a task's operands are stored, as far as there is a kernel for it.
enum Kind { kF32, kF64, kBF16, kBF16WithF32, kF16, kF16WithF32, kOtherF32, kOtherF64, kKinds };

template <class Rule>
Kind kind_of(const Task& task) {
    bool aligned = is_aligned(task.param.data) && is_aligned(task.grad.data), own = true, wide = Rule::states > 0;
    for (int k = 0; k < Rule::states; ++k) {
        aligned &= is_aligned(task.states[k].data);
        own &= task.states[k].type == task.param.type;
        wide &= task.states[k].type == DType::f32;
    }
    const bool f64 = task.param.type == DType::f64;
    if (!aligned || !(own || wide)) return f64 ? kOtherF64 : kOtherF32;
    switch (task.param.type) {
        case DType::f32: return kF32;
        case DType::f64: return kF64;
        case DType::bf16: return own ? kBF16 : kBF16WithF32;
        case DType::f16: return own ? kF16 : kF16WithF32;
    }
    return kOtherF32;
}

template <class Rule>
void fill_arrays(Tensors<Places<Rule>::count>& tensors, int i, const Task& task) {
    const auto set = [&](int k, const Array& array) {
        tensors.arrays[i][k] = array.data;
        tensors.types[i][k] = array.type;
    };
    set(0, task.param);
    if (Rule::reads_grad) set(1, task.grad);
    for (int k = 0; k < Rule::states; ++k) set(Places<Rule>::states + k, task.states[k]);
}

template <class Rule>
void update_all(const Stream& stream, const Task* const* tasks, int count) {
    using P = Places<Rule>;
    using BF16 = Narrow<BFloat16>;
    using F16 = Narrow<Float16>;
    using F32 = Plain<float>;
    using F64 = Plain<double>;
    static constexpr void (*kernels[kKinds])(const Tensors<P::count>) = {
        update_vectors<Rule, F32, F32>,  update_vectors<Rule, F64, F64>, update_vectors<Rule, BF16, BF16>,
        update_vectors<Rule, BF16, F32>, update_vectors<Rule, F16, F16>, update_vectors<Rule, F16, F32>,
        update_elements<Rule, float>,    update_elements<Rule, double>};
    std::vector<const Task*> of_kind[kKinds];
    for (int i = 0; i < count; ++i) of_kind[kind_of<Rule>(*tasks[i])].push_back(tasks[i]);
    for (int kind = 0; kind < kKinds; ++kind) {
        const std::vector<const Task*>& chosen = of_kind[kind];
        for_tables<P::count>(chosen.data(), static_cast<int>(chosen.size()), kPart, fill_arrays<Rule>,
                             [&](const Tensors<P::count>& tensors, int64_t blocks) {
                                 launch(stream, "update", kernels[kind], {blocks, kThreads}, tensors);
                             });
    }
}

template <int kRow, class Rule>
constexpr Update in_part() {
    if constexpr (kRow % kParts == FASTOPT_PART)
        return update_all<Rule>;
    else
        return nullptr;
}

constexpr int kFirst = __COUNTER__ + 1;
#define FASTOPT_ONE_PASS(name, ...) in_part<__COUNTER__ - kFirst, OnePass<__VA_ARGS__>>(),
#define FASTOPT_GRADIENTLESS(name, ...) in_part<__COUNTER__ - kFirst, Gradientless<__VA_ARGS__>>(),
#define FASTOPT_SEVERAL_PASSES(name, ...) __COUNTER__ - kFirst < 0 ? nullptr : nullptr,

constexpr Update updates[] = {FASTOPT_RULES(FASTOPT_ONE_PASS, FASTOPT_GRADIENTLESS, FASTOPT_SEVERAL_PASSES)
                                  in_part<__COUNTER__ - kFirst, Clip>()};

}  // namespace

template <>
void update_in_part<FASTOPT_PART>(const Stream& stream, int rule, const Task* const* tasks, int count) {
    updates[rule](stream, tasks, count);
}

}  // namespace fastopt::cuda
