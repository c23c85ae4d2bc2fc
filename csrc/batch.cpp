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
bool read_step(PyObject* tensor, Counter& counter) {
    TensorView v;
    if (!view(tensor, v) || v.numel != 1 || v.complex) return false;
    double value;
    if (v.type == DType::f32)
        value = static_cast<double>(*static_cast<const float*>(v.data));
    else if (v.type == DType::f64)
        value = *static_cast<const double*>(v.data);
    else
        return false;
    const double limit = v.type == DType::f32 ? kLastFloatStep : 0x1p53;
    if (!(value >= 0 && value < limit)) return false;
    counter = {{v.data, v.type}, static_cast<int64_t>(value) + 1};
    return static_cast<double>(counter.t - 1) == value;
}

void write_step(const Counter& counter) {
    if (counter.step.data == nullptr) return;
    if (counter.step.type == DType::f32)
        *static_cast<float*>(counter.step.data) = static_cast<float>(counter.t);
    else
        *static_cast<double*>(counter.step.data) = static_cast<double>(counter.t);
}

}  // namespace

PyObject* StateWalk::pass(PyObject* state, PyObject* param) {
    PyObject *key, *value;
    Py_ssize_t next = position_;
    if (!PyDict_Next(state, &next, &key, &value) || key != param) return nullptr;
    position_ = next;
    return value;
}

PyObject* StateWalk::find(PyObject* state, PyObject* param) {
    if (PyObject* next = pass(state, param)) return next;
    PyObject* found = PyDict_GetItemWithError(state, param);
    if (found == nullptr && PyErr_Occurred()) throw py::error_already_set();
    return found;
}

void Batch::Held::release() const {
    Py_DECREF(owner);
    Py_DECREF(param);
    Py_DECREF(grad);
    Py_XDECREF(step);
    for (PyObject* state : states) Py_XDECREF(state);
}

Batch::~Batch() { clear(); }

void Batch::clear() {
    tasks_.clear();
    counters_.clear();
    constants_.clear();
    scalars_ = py::object();
    by_step_.clear();
    walk_.restart();
    std::vector<Held> released;
    released.swap(held_);  // a tensor's end may run Python code, which may come back here
    for (const Held& held : released) held.release();
    released.clear();
    if (held_.empty()) held_.swap(released);  // its capacity
}

const Constants* Batch::constants(int64_t t) {
    for (const auto& [step, known] : by_step_)
        if (step == t) return known;
    const py::object step = py::int_(t);
    PyObject* argument = step.ptr();
    const auto values = py::reinterpret_steal<py::object>(PyObject_Vectorcall(scalars_.ptr(), &argument, 1, nullptr));
    if (!values) throw py::error_already_set();
    Constants fresh{};
    std::copy(std::begin(prologue_), std::end(prologue_), fresh.prologue);
    rule_->scalars.read(values.cast<py::dict>(), fresh.rule);
    fresh.unscales = unscales_;
    constants_.push_back(fresh);
    by_step_.emplace_back(t, &constants_.back());
    return by_step_.back().second;
}

bool Batch::try_add(const Held& borrowed, int64_t t) {
    Held held = borrowed;
    for (PyObject* object : {held.owner, held.param, held.grad}) Py_INCREF(object);
    Py_XINCREF(held.step);
    for (PyObject* state : held.states) Py_XINCREF(state);
    Task task{};
    Counter counter{};
    try {
        if (!describe(held, t, task, counter)) {
            held.release();
            return false;
        }
    } catch (...) {
        held.release();
        throw;
    }
    tasks_.push_back(task);
    counters_.push_back(counter);
    held_.push_back(held);
    return true;
}

// Everything that may run Python code comes first, and then the pointers are read.
bool Batch::describe(const Held& held, int64_t t, Task& task, Counter& counter) {
    if (!is_plain(held.param) || !is_plain(held.grad)) return false;  // before a subclass is asked anything
    if (held.step != nullptr) {
        if (!read_step(held.step, counter)) return false;
        t = counter.t;
    }
    task.constants = constants(t);
    if (is_negated(held.param) || is_negated(held.grad)) return false;

    TensorView param, grad, state;
    if (!view(held.param, param) || !is_dense(param)) return false;
    if (!view(held.grad, grad) || grad.type != param.type || !same_layout(grad, param)) return false;
    for (int k = 0; k < rule_->states; ++k) {
        if (!view(held.states[k], state) || !fits(state, param) || !same_layout(state, param)) return false;
        task.states[k] = {state.data, state.type};
    }
    const RuleEntry& entry = kernels().rules[rule_->index];
    task.kernel = param.type == DType::f64 ? entry.f64 : entry.f32;
    task.n = param.numel;
    task.param = {param.data, param.type};
    task.grad = {grad.data, grad.type};
    return true;
}

py::list Batch::take(const std::string& rule, const py::tuple& keys, bool counts, const py::dict& prologue,
                     const py::object& scalars, const py::list& params, const py::dict& state) {
    static PyObject* const grad_name = interned("grad");
    static PyObject* const step_name = interned("step");
    rule_ = &find_rule(rule);
    if (static_cast<int>(keys.size()) != rule_->states) throw py::value_error("the rule has another number of states");
    prologue_names().read(prologue, prologue_);
    unscales_ = prologue_[0] != 1.0;  // loss_scale
    scalars_ = scalars;
    counts_ = counts;
    by_step_.clear();

    const bool has_state = rule_->states > 0 || counts_;
    py::list rest;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(params.ptr()); ++i) {
        const auto param = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(params.ptr(), i));
        const auto grad = py::reinterpret_steal<py::object>(PyObject_GetAttr(param.ptr(), grad_name));
        if (!grad) throw py::error_already_set();
        if (grad.is_none()) {
            walk_.pass(state.ptr(), param.ptr());
            continue;
        }
        PyObject* own = has_state ? walk_.find(state.ptr(), param.ptr()) : nullptr;
        Held tensors{param.ptr(), param.ptr(), grad.ptr(), nullptr, {}};
        bool complete = !has_state || (own != nullptr && PyDict_Check(own));
        for (int k = 0; complete && k < rule_->states; ++k) {
            tensors.states[k] = PyDict_GetItemWithError(own, PyTuple_GET_ITEM(keys.ptr(), k));
            complete = tensors.states[k] != nullptr;
        }
        if (complete && counts_) {
            tensors.step = PyDict_GetItemWithError(own, step_name);
            complete = tensors.step != nullptr;
        }
        if (!complete && PyErr_Occurred()) throw py::error_already_set();
        if (!complete || !try_add(tensors, 2)) rest.append(i);
    }
    return rest;
}

void Batch::add(const py::object& owner, const py::object& param, const py::object& grad, const py::tuple& states,
                const py::object& step, int64_t t) {
    if (static_cast<int>(states.size()) != rule_->states)
        throw py::value_error("the rule has another number of states");
    Held tensors{owner.ptr(), param.ptr(), grad.ptr(), step.is_none() ? nullptr : step.ptr(), {}};
    for (size_t k = 0; k < states.size(); ++k) tensors.states[k] = PyTuple_GET_ITEM(states.ptr(), k);
    if (!try_add(tensors, t)) throw py::value_error("Batch.add: an operand was not prepared");
}

py::object Batch::settle() {
    if (const auto found = overlap_.find(tasks_, counters_)) {
        const auto owner = [this](const Range& range) {
            return py::reinterpret_borrow<py::object>(held_[range.task].owner);
        };
        const auto& [a, b] = *found;
        return py::make_tuple(owner(a), a.role, owner(b), b.role);
    }
    py::list written;
    for (size_t i = 0; i < tasks_.size(); ++i) {
        written.append(py::handle(held_[i].param));
        if (tasks_[i].constants->unscales) written.append(py::handle(held_[i].grad));
    }
    increment_version(written);
    return py::none();
}

void Batch::run(int threads) {
    if (elements(tasks_) < kGrain) {  // over before another Python thread could make use of the GIL
        fastopt::run(tasks_, 1);
    } else {
        const py::gil_scoped_release release;
        fastopt::run(tasks_, threads);
    }
    for (const Counter& counter : counters_) write_step(counter);
    clear();
}

}  // namespace fastopt
