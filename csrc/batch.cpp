#include "batch.h"

#include <algorithm>

#include "cpu/dispatch.h"
#include "cpu/run.h"

namespace py = pybind11;

namespace fastopt {
namespace {

// float32 counts exactly up to here; beyond, the slow path replaces the counter by a float64 one.
constexpr double kLastFloatStep = 16777216.0;

PyObject* interned(const char* name) { return PyUnicode_InternFromString(name); }

bool fits(const TensorView& state, const TensorView& param) {
    const bool half = param.type == DType::bf16 || param.type == DType::f16;
    return state.type == param.type || (half && state.type == DType::f32);
}

// Reads a 'step' tensor: a float32 or float64 scalar that holds a count it can still add one to.
bool read_step(PyObject* tensor, TensorView& v, int64_t& t) {
    if (!view(tensor, v, false) || v.numel != 1 || v.complex) return false;
    double value;
    if (v.type == DType::f32)
        value = static_cast<double>(*static_cast<const float*>(v.data));
    else if (v.type == DType::f64)
        value = *static_cast<const double*>(v.data);
    else
        return false;
    const double limit = v.type == DType::f32 ? kLastFloatStep : 0x1p53;
    if (!(value >= 0 && value < limit)) return false;
    t = static_cast<int64_t>(value) + 1;
    return static_cast<double>(t - 1) == value;
}

}  // namespace

void Batch::begin() {
    tasks_.clear();
    constants_.clear();
    counters_.clear();
    owners_.clear();
    kept_.clear();
    written_.clear();
    writes_.clear();
    reads_.clear();
    state_position_ = 0;
    next_key_ = next_state_ = nullptr;
}

void Batch::open(const std::string& rule, const py::dict& prologue, const py::function& scalars, bool counts) {
    rule_ = &find_rule(rule);
    prologue_names().read(prologue, prologue_);
    scalars_ = scalars;
    counts_ = counts;
    unscales_ = prologue_[0] != 1.0;  // loss_scale
    by_step_.clear();
}

const Constants* Batch::constants(int64_t t) {
    for (const auto& [step, known] : by_step_)
        if (step == t) return known;
    Constants& fresh = constants_.emplace_back();
    std::copy(std::begin(prologue_), std::end(prologue_), fresh.prologue);
    rule_->scalars.read(py::dict(scalars_(t)), fresh.rule);
    by_step_.emplace_back(t, &fresh);
    return &fresh;
}

void Batch::peek_state(PyObject* state) {
    if (next_key_ != nullptr) return;
    if (!PyDict_Next(state, &state_position_, &next_key_, &next_state_)) next_key_ = next_state_ = nullptr;
}

PyObject* Batch::state_of(PyObject* param, PyObject* state) {
    peek_state(state);
    if (next_key_ == param) {
        next_key_ = nullptr;
        return next_state_;
    }
    PyObject* found = PyDict_GetItemWithError(state, param);
    if (found == nullptr && PyErr_Occurred()) throw py::error_already_set();
    return found;
}

void Batch::skip_state_of(PyObject* param, PyObject* state) {
    peek_state(state);
    if (next_key_ == param) next_key_ = nullptr;
}

bool Batch::try_add(const Operands& o, int64_t t) {
    TensorView param, grad, state, step;
    if (!view(o.param, param) || !is_dense(param)) return false;
    if (!view(o.grad, grad) || grad.type != param.type || !same_layout(grad, param)) return false;

    Task task{};
    task.n = param.numel;
    task.param = {param.data, param.type};
    task.grad = {grad.data, grad.type};
    for (int k = 0; k < rule_->states; ++k) {
        if (!view(o.states[k], state, false) || !fits(state, param) || !same_layout(state, param)) return false;
        task.states[k] = {state.data, state.type};
    }
    if (counts_ && o.step != nullptr) {
        int64_t count;
        if (!read_step(o.step, step, count)) return false;
        t = count;
    }
    const RuleEntry& entry = kernels().rules[rule_->index];
    task.kernel = param.type == DType::f64 ? entry.f64 : entry.f32;
    task.constants = constants(t);

    // From here on nothing fails.
    const size_t index = owners_.size();
    const auto keep = [&](PyObject* object) { kept_.push_back(py::reinterpret_borrow<py::object>(object)); };
    const auto range = [&](std::vector<Range>& list, const Array& array, const char* role) {
        const char* begin = static_cast<const char*>(array.data);
        if (task.n > 0) list.push_back({begin, begin + task.n * element_size(array.type), index, role});
    };
    owners_.push_back(py::reinterpret_borrow<py::object>(o.owner));
    written_.push_back(py::reinterpret_borrow<py::object>(o.param));
    keep(o.grad);
    range(writes_, task.param, "parameter");
    range(unscales_ ? writes_ : reads_, task.grad, "gradient");
    if (unscales_) written_.push_back(py::reinterpret_borrow<py::object>(o.grad));
    for (int k = 0; k < rule_->states; ++k) {
        keep(o.states[k]);
        range(writes_, task.states[k], "state");
    }
    if (counts_ && o.step != nullptr) {
        keep(o.step);
        counters_.push_back({step.data, step.type, static_cast<double>(t)});
        const char* begin = static_cast<const char*>(step.data);
        writes_.push_back({begin, begin + element_size(step.type), index, "step"});
    }
    if (task.n > 0) tasks_.push_back(task);
    return true;
}

py::list Batch::take(const py::list& params, const py::dict& state, const py::tuple& keys) {
    static PyObject* const grad_name = interned("grad");
    static PyObject* const step_name = interned("step");
    if (static_cast<int>(keys.size()) != rule_->states) throw py::value_error("the rule has another number of states");
    py::list rest;
    for (size_t i = 0; i < params.size(); ++i) {
        const py::object param = params[i];
        const auto grad = py::reinterpret_steal<py::object>(PyObject_GetAttr(param.ptr(), grad_name));
        if (!grad) throw py::error_already_set();
        const bool has_state = rule_->states > 0 || counts_;
        if (grad.is_none()) {
            if (has_state) skip_state_of(param.ptr(), state.ptr());
            continue;
        }
        PyObject* states[kMaxStates];
        PyObject* step = nullptr;
        bool complete = true;
        if (has_state) {
            PyObject* own = state_of(param.ptr(), state.ptr());
            complete = own != nullptr && PyDict_Check(own);
            for (int k = 0; complete && k < rule_->states; ++k) {
                states[k] = PyDict_GetItemWithError(own, PyTuple_GET_ITEM(keys.ptr(), k));
                complete = states[k] != nullptr;
            }
            if (complete && counts_) complete = (step = PyDict_GetItemWithError(own, step_name)) != nullptr;
            if (PyErr_Occurred()) throw py::error_already_set();
        }
        if (!complete || !try_add({param.ptr(), param.ptr(), grad.ptr(), step, states}, 2)) rest.append(i);
    }
    return rest;
}

void Batch::add(const py::object& owner, const py::object& param, const py::object& grad, const py::tuple& states,
                const py::object& step, int64_t t) {
    if (static_cast<int>(states.size()) != rule_->states) throw py::value_error("the rule has another number of states");
    PyObject* pointers[kMaxStates];
    for (size_t k = 0; k < states.size(); ++k) pointers[k] = PyTuple_GET_ITEM(states.ptr(), k);
    PyObject* counter = step.is_none() ? nullptr : step.ptr();
    if (!try_add({owner.ptr(), param.ptr(), grad.ptr(), counter, pointers}, t))
        throw py::value_error("Batch.add: an operand was not prepared");
}

py::object Batch::describe(const Range& a, const Range& b) const {
    return py::make_tuple(owners_[a.task], a.role, owners_[b.task], b.role);
}

py::object Batch::conflict() {
    if (writes_ != known_writes_) {
        known_writes_.clear();
        sorted_writes_ = writes_;
        std::sort(sorted_writes_.begin(), sorted_writes_.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
        for (size_t i = 1; i < sorted_writes_.size(); ++i)
            if (sorted_writes_[i].begin < sorted_writes_[i - 1].end) return describe(sorted_writes_[i - 1], sorted_writes_[i]);
        known_writes_ = writes_;
    }
    for (const Range& read : reads_) {
        // The writes are disjoint, so only the last one that begins before the read's end can touch it.
        auto after = std::lower_bound(sorted_writes_.begin(), sorted_writes_.end(), read.end,
                                      [](const Range& w, const char* end) { return w.begin < end; });
        if (after != sorted_writes_.begin() && (--after)->end > read.begin) return describe(*after, read);
    }
    return py::none();
}

py::list Batch::written() const {
    py::list all(written_.size());
    for (size_t i = 0; i < written_.size(); ++i) all[i] = written_[i];
    return all;
}

void Batch::run(int threads) {
    {
        const py::gil_scoped_release release;
        fastopt::run(tasks_, threads);
    }
    for (const Counter& counter : counters_) {
        if (counter.type == DType::f32)
            *static_cast<float*>(counter.data) = static_cast<float>(counter.value);
        else
            *static_cast<double*>(counter.data) = counter.value;
    }
    begin();
}

}  // namespace fastopt
