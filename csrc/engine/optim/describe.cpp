// Describes one parameter of a Step by pointers, if the kernels can take all its tensors as they are.
#include "engine/optim/step.h"
#include "engine/workers/dispatch.h"
#include "math/codes.h"

namespace fastopt {
namespace {

// float32 counts exactly up to here; then the slow path replaces the counter by a float64 one.
constexpr double kLastFloatStep = 16777216.0;

bool fits(const TensorView& state, const TensorView& param) {
    const bool half = param.type == DType::bf16 || param.type == DType::f16;
    return state.type == param.type || (half && state.type == DType::f32);
}

// Reads a float32 or float64 tensor of one element.
bool read_scalar(PyObject* tensor, Array& where, double& value) {
    TensorView v;
    if (!view(tensor, v) || !v.on_host || v.numel != 1 || v.complex) return false;
    if (v.type == DType::f32)
        value = static_cast<double>(*static_cast<const float*>(v.data));
    else if (v.type == DType::f64)
        value = *static_cast<const double*>(v.data);
    else
        return false;
    where = {v.data, v.type};
    return true;
}

// Reads a 'step' tensor; fails if its type cannot hold the next count.
bool read_step(PyObject* tensor, Counter& counter) {
    double value;
    if (!read_scalar(tensor, counter.step, value)) return false;
    const double limit = counter.step.type == DType::f32 ? kLastFloatStep : 0x1p53;
    if (!(value >= 0 && value < limit)) return false;
    counter.t = static_cast<int64_t>(value) + 1;
    return static_cast<double>(counter.t - 1) == value;
}

// The shape of a factored parameter; false unless it is contiguous and has at least two dimensions.
bool as_matrices(const TensorView& param, Matrices& shape) {
    if (param.ndim < 2 || param.complex) return false;
    int64_t expected = 1;
    for (int d = param.ndim - 1; d >= 0; --d) {
        if (param.sizes[d] != 1 && param.strides[d] != expected && param.numel > 0) return false;
        expected *= param.sizes[d];
    }
    shape = {1, param.sizes[param.ndim - 2], param.sizes[param.ndim - 1]};
    for (int d = 0; d < param.ndim - 2; ++d) shape.count *= param.sizes[d];
    return true;
}

}  // namespace

bool Step::describe_state(PyObject* state, const TensorView& param, int k, Task& task) const {
    TensorView v;
    const bool may_be_coded = storage_ && !storage_->scale_keys[static_cast<size_t>(k)].is_none();
    const bool coded = may_be_coded && param.numel >= kFewestCoded;
    if (!view(state, v, coded)) return false;
    const auto wanted = storage_ ? storage_->wants(k, param.type) : std::nullopt;
    if (coded) v.complex = param.complex;
    if (!coded && !(wanted ? v.type == *wanted : fits(v, param))) return false;
    if (v.device != param.device) return false;
    Matrices shape;
    if (!rule_->factored) {
        if (!same_layout(v, param)) return false;
    } else if (!as_matrices(v, shape) || shape.count != task.shape.count ||
               shape.rows != (k == 0 ? task.shape.rows : 1) || shape.columns != (k == 0 ? 1 : task.shape.columns)) {
        return false;
    }
    task.states[k] = {v.data, v.type};
    return true;
}

bool Step::read_counter(const TensorRefs& refs, Counter& counter, int64_t t, const Constants*& scalars) {
    counter = {};
    if (refs.step != nullptr) {
        if (!read_step(refs.step, counter)) return false;
        t = counter.t;
    }
    double carried[kMaxCarried] = {};
    for (size_t k = 0; k < carried_keys_.size(); ++k)
        if (!read_scalar(refs.carried[k], counter.carried[k], carried[k])) return false;
    scalars = constants(t, carried);
    return true;
}

// Where a program computes the scalars, the counters stay on the device, and are not read here.
bool Step::describe_counter(const TensorRefs& refs, const TensorView& param, Counter& counter,
                            const Constants*& constants) {
    counter = {};
    constants = by_step_.front().constants;
    const auto number = [&](PyObject* tensor, Array& where) {
        TensorView v;
        if (tensor == nullptr) return true;
        if (!view(tensor, v) || v.device != param.device || v.numel != 1 || v.complex) return false;
        where = {v.data, v.type};
        return v.type == DType::f32 || v.type == DType::f64;
    };
    if (param.device == kHost || !number(refs.step, counter.step)) return false;
    for (size_t k = 0; k < carried_keys_.size(); ++k)
        if (!number(refs.carried[k], counter.carried[k])) return false;
    return true;
}

// First everything that may run Python code, then the pointers.
bool Step::describe(const TensorRefs& refs, int64_t index, int64_t t, Task& task, Counter& counter) {
    // Rejects subclasses before calling any of their methods.
    if (!is_plain(refs.param) || (refs.grad != nullptr && !is_plain(refs.grad))) return false;
    if (asks_layouts_ && refs.grad != nullptr && !is_strided(refs.grad)) return false;
    if (programmed_ == nullptr) {
        // Reads twice if the scalars were computed, because Python may have moved the counters' memory.
        const size_t known = by_step_.size();
        if (!read_counter(refs, counter, t, task.constants)) return false;
        if (by_step_.size() != known && !read_counter(refs, counter, t, task.constants)) return false;
    }
    if (is_negated(refs.param) || (refs.grad != nullptr && is_negated(refs.grad))) return false;

    TensorView param, grad;
    if (!view(refs.param, param) || !is_dense(param)) return false;
    if (programmed_ != nullptr && !describe_counter(refs, param, counter, task.constants)) return false;
    if (rule_->factored && !as_matrices(param, task.shape)) return false;
    if (refs.grad != nullptr) {
        if (!view(refs.grad, grad) || grad.device != param.device || !same_layout(grad, param)) return false;
        task.grad = {grad.data, grad.type};
    }
    for (int k = 0; k < rule_->states; ++k)
        if (!describe_state(refs.states[k], param, k, task)) return false;
    const RuleEntry& entry = kernels().rules[rule_->index];
    task.passes = param.type == DType::f64 ? entry.f64 : entry.f32;
    task.pass_count = entry.passes;
    if (task.constants->masks) {
        task.passes = param.type == DType::f64 ? entry.masked_f64 : entry.masked_f32;
        task.pass_count = kMaskedPasses;
    }
    task.rule = rule_->index;
    task.device = param.device;
    task.n = param.numel;
    task.param = {param.data, param.type};
    if (storage_) {
        Storage storage;
        if (!storage_->describe(refs.storage, param, index, task, storage)) return false;
        task.storage = &storages_.add(storage);
    }
    return true;
}

}  // namespace fastopt
