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

Batch::~Batch() { clear(); }

void Batch::clear() {
    tasks_.clear();
    constants_.clear();
    scalars_ = py::object();
    by_step_.clear();
    next_place_ = 0;
    state_position_ = 0;
    next_key_ = next_state_ = nullptr;
    std::vector<Held> released;
    released.swap(held_);  // a tensor's end may run Python code, which may come back here
    for (const Held& held : released)
        for (PyObject* const* object = held.objects; *object != nullptr; ++object) Py_DECREF(*object);
    released.clear();
    if (held_.empty()) held_.swap(released);  // its capacity
}

const Constants* Batch::constants(int64_t t) {
    for (const auto& [step, known] : by_step_)
        if (step == t) return known;
    Constants& fresh = constants_.emplace_back();
    std::copy(std::begin(prologue_), std::end(prologue_), fresh.prologue);
    fresh.unscales = unscales_;
    const py::object step = py::int_(t);
    PyObject* argument = step.ptr();
    const auto values = py::reinterpret_steal<py::object>(PyObject_Vectorcall(scalars_.ptr(), &argument, 1, nullptr));
    if (!values) throw py::error_already_set();
    rule_->scalars.read(values.cast<py::dict>(), fresh.rule);
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

// The place of the parameter the walk comes to; what lies a few places ahead is on its way meanwhile.
Batch::Place& Batch::next_place() {
    constexpr size_t kAhead = 8;
    if (next_place_ == places_.size()) places_.emplace_back();
    if (next_place_ + kAhead < places_.size()) {
        const Place& ahead = places_[next_place_ + kAhead];
        for (int i = 0; i < ahead.touches; ++i) __builtin_prefetch(ahead.touched[i]);
    }
    return places_[next_place_++];
}

bool Batch::try_add(const Operands& o, int64_t t, Place& place) {
    TensorView param, grad, state, step;
    const bool met = place.param.ptr() == o.param;
    if (!view(o.param, param, false) || !is_dense(param)) return false;
    if (!(met && param.data == place.data) && is_lazy(o.param, param)) return false;
    if (!view(o.grad, grad, true) || grad.type != param.type || !same_layout(grad, param)) return false;
    place.touch(o.param);
    place.touch(param.sizes);

    Task task;
    task.n = param.numel;
    task.param = {param.data, param.type};
    task.grad = {grad.data, grad.type};
    for (int k = 0; k < rule_->states; ++k) {
        if (!view(o.states[k], state, false) || !fits(state, param) || !same_layout(state, param)) return false;
        task.states[k] = {state.data, state.type};
        place.touch(o.states[k]);
        place.touch(state.sizes);
    }
    for (int k = rule_->states; k < kMaxStates; ++k) task.states[k] = {nullptr, param.type};
    step.data = nullptr;
    if (o.step != nullptr) {
        if (!read_step(o.step, step, t)) return false;
        place.touch(o.step);
        place.touch(step.sizes);
        place.touch(step.data);
    }
    const RuleEntry& entry = kernels().rules[rule_->index];
    task.kernel = param.type == DType::f64 ? entry.f64 : entry.f32;
    task.constants = constants(t);

    // From here on nothing fails.
    if (!met) place.param = py::reinterpret_borrow<py::object>(o.param);
    place.data = param.data;
    tasks_.push_back(task);
    hold(o, step, t);
    moved_ |= !unmoved(tasks_.size() - 1);
    return true;
}

void Batch::hold(const Operands& o, const TensorView& step, int64_t t) {
    Held& held = held_.emplace_back();
    PyObject** next = held.objects;
    *next++ = o.owner;
    *next++ = o.param;
    *next++ = o.grad;
    for (int k = 0; k < rule_->states; ++k) *next++ = o.states[k];
    if (o.step != nullptr) *next++ = o.step;
    *next = nullptr;
    for (PyObject** object = held.objects; object != next; ++object) Py_INCREF(*object);
    held.step = step.data;
    held.step_type = step.type;
    held.count = static_cast<double>(t);
}

// Whether a task writes where the one at its place in the last step wrote.
bool Batch::unmoved(size_t task) const {
    if (task >= last_tasks_.size() || last_steps_[task] != held_[task].step) return false;
    const Task &now = tasks_[task], &last = last_tasks_[task];
    bool same = now.n == last.n && now.param.data == last.param.data && now.param.type == last.param.type;
    for (int k = 0; k < kMaxStates; ++k)
        same &= now.states[k].data == last.states[k].data && now.states[k].type == last.states[k].type;
    return same;
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
        Place& place = next_place();
        place.touches = 0;
        const auto grad = py::reinterpret_steal<py::object>(PyObject_GetAttr(param.ptr(), grad_name));
        if (!grad) throw py::error_already_set();
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
            if (!complete && PyErr_Occurred()) throw py::error_already_set();
            place.touch(own);
        }
        if (!complete || !try_add({param.ptr(), param.ptr(), grad.ptr(), step, states}, 2, place)) rest.append(i);
    }
    return rest;
}

void Batch::add(const py::object& owner, const py::object& param, const py::object& grad, const py::tuple& states,
                const py::object& step, int64_t t) {
    if (static_cast<int>(states.size()) != rule_->states)
        throw py::value_error("the rule has another number of states");
    PyObject* pointers[kMaxStates];
    for (size_t k = 0; k < states.size(); ++k) pointers[k] = PyTuple_GET_ITEM(states.ptr(), k);
    Place unremembered;
    PyObject* counter = step.is_none() ? nullptr : step.ptr();
    if (!try_add({owner.ptr(), param.ptr(), grad.ptr(), counter, pointers}, t, unremembered))
        throw py::value_error("Batch.add: an operand was not prepared");
}

std::vector<Batch::Range> Batch::writes() const {
    std::vector<Range> ranges;
    for (size_t i = 0; i < tasks_.size(); ++i) {
        const auto add = [&](void* data, DType type, int64_t n, const char* role) {
            const char* begin = static_cast<const char*>(data);
            if (begin != nullptr && n > 0) ranges.push_back({begin, begin + n * element_size(type), i, role});
        };
        const Task& task = tasks_[i];
        add(task.param.data, task.param.type, task.n, "parameter");
        if (task.constants->unscales) add(task.grad.data, task.grad.type, task.n, "gradient");
        for (const Array& state : task.states) add(state.data, state.type, task.n, "state");
        add(held_[i].step, held_[i].step_type, 1, "step");
    }
    return ranges;
}

py::object Batch::describe(const Range& a, const Range& b) const {
    const auto owner = [this](const Range& range) {
        return py::reinterpret_borrow<py::object>(held_[range.task].owner());
    };
    return py::make_tuple(owner(a), a.role, owner(b), b.role);
}

py::object Batch::conflict() {
    auto& sorted = sorted_writes_;
    if (moved_ || unscales_ || tasks_.size() != last_tasks_.size()) {
        moved_ = true;  // until they are known to be disjoint
        sorted = writes();
        std::sort(sorted.begin(), sorted.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
        for (size_t i = 1; i < sorted.size(); ++i)
            if (sorted[i].begin < sorted[i - 1].end) return describe(sorted[i - 1], sorted[i]);
        last_tasks_ = tasks_;
        last_steps_.clear();
        for (const Held& held : held_) last_steps_.push_back(held.step);
        moved_ = unscales_;
    }
    for (size_t i = 0; i < tasks_.size(); ++i) {
        const Task& task = tasks_[i];
        if (task.n == 0 || task.constants->unscales) continue;
        const char* begin = static_cast<const char*>(task.grad.data);
        const Range read{begin, begin + task.n * element_size(task.grad.type), i, "gradient"};
        // The writes are disjoint, so only the last one that begins before the read's end can touch it.
        auto after = std::lower_bound(sorted.begin(), sorted.end(), read.end,
                                      [](const Range& w, const char* end) { return w.begin < end; });
        if (after != sorted.begin() && (--after)->end > read.begin) return describe(*after, read);
    }
    return py::none();
}

py::object Batch::settle() {
    if (py::object found = conflict(); !found.is_none()) return found;
    py::list written;
    for (size_t i = 0; i < tasks_.size(); ++i) {
        PyList_Append(written.ptr(), held_[i].objects[1]);
        if (tasks_[i].constants->unscales) PyList_Append(written.ptr(), held_[i].objects[2]);
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
    for (const Held& held : held_) {
        if (held.step == nullptr) continue;
        if (held.step_type == DType::f32)
            *static_cast<float*>(held.step) = static_cast<float>(held.count);
        else
            *static_cast<double*>(held.step) = held.count;
    }
    clear();
}

}  // namespace fastopt
