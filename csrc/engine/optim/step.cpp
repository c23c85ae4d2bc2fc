#include "engine/optim/step.h"

#include <algorithm>

#include "engine/optim/program.h"
#include "engine/workers/dispatch.h"
#include "rules/caution.h"

namespace py = pybind11;

namespace fastopt {
namespace {

bool given(const py::object& object) { return object && !object.is_none(); }

// Throws what Python throws.
py::object grad_of(PyObject* param) {
    static PyObject* const name = PyUnicode_InternFromString("grad");
    PyObject* grad = PyObject_GetAttr(param, name);
    if (grad == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(grad);
}

}  // namespace

template <class Visit>
void Step::TensorRefs::each(Visit visit) const {
    for (PyObject* object : {owner, param, grad, step})
        if (object != nullptr) visit(object);
    for (int k = 0; k < kMaxStates && states[k] != nullptr; ++k) visit(states[k]);
    for (int k = 0; k < kMaxCarried && carried[k] != nullptr; ++k) visit(carried[k]);
    if (!is_stored) return;
    for (PyObject* object : {storage.master, storage.average, storage.copy})
        if (object != nullptr) visit(object);
    for (PyObject* scale : storage.scales)
        if (scale != nullptr) visit(scale);
}

namespace {

void acquire(PyObject* object) { Py_INCREF(object); }
void release(PyObject* object) { Py_DECREF(object); }

}  // namespace

Step::~Step() { clear(); }

void Step::clear() {
    for (size_t i = 0; i < written_.size(); ++i) written_[i] = py::none();
    tasks_.clear();
    counters_.clear();
    places_.clear();
    group_ = 0;
    asks_layouts_ = std::exchange(left_out_, false);
    constants_.clear();
    storages_.clear();
    programs_.clear();
    devices_.clear();
    programmed_ = nullptr;
    loss_scale_ = found_inf_ = norm_ = scalars_ = table_of_ = held_shared_ = py::object();
    tables_.clear();
    shared_ = {};
    keys_ = carried_keys_ = py::tuple();
    storage_.reset();
    by_step_.clear();
    walk_.restart();
    std::vector<TensorRefs> released;
    released.swap(refs_);  // freeing a tensor may run Python code, which may call this again
    for (const TensorRefs& refs : released) refs.each(release);
    released.clear();
    if (refs_.empty()) refs_.swap(released);  // keeps the capacity
}

const Constants* Step::keep(const Constants& fresh) {
    Constants& kept = constants_.add(fresh);
    kept.index = static_cast<int>(constants_.size()) - 1;
    return &kept;
}

const Constants* Step::constants(int64_t t, const double* carried) {
    const size_t count = carried_keys_.size();
    const auto same = [=](double a, double b) { return a == b || (a != a && b != b); };
    for (const ByStep& known : by_step_)
        if (known.t == t && std::equal(carried, carried + count, known.carried, same)) return known.constants;

    py::object arguments[1 + kMaxCarried];
    PyObject* borrowed[1 + kMaxCarried];
    arguments[0] = py::int_(t);
    for (size_t k = 0; k < count; ++k) arguments[k + 1] = py::float_(carried[k]);
    for (size_t k = 0; k <= count; ++k) borrowed[k] = arguments[k].ptr();
    const auto result =
        py::reinterpret_steal<py::object>(PyObject_Vectorcall(scalars_.ptr(), borrowed, count + 1, nullptr));
    if (!result) throw py::error_already_set();
    const auto values = result.cast<py::dict>();
    Constants fresh = common_;
    const bool has_average = storage_ && storage_->has_average();
    if (has_average) fresh.average_weight = values["ema_weight"].cast<double>();
    rule_->scalars.read(values, fresh.rule, count + has_average);
    fresh.step = static_cast<uint32_t>(t);
    for (size_t k = 0; k < count; ++k) fresh.carried[k] = values[carried_keys_[k]].cast<double>();
    ByStep entry{t, {}, keep(fresh)};
    std::copy(carried, carried + count, entry.carried);
    by_step_.push_back(entry);
    return entry.constants;
}

bool Step::try_add(const TensorRefs& tensors, int64_t index, int64_t t) {
    tensors.each(acquire);
    Task task{};
    Counter counter{};
    try {
        if (!describe(tensors, index, t, task, counter)) {
            tensors.each(release);
            return false;
        }
        task.row = row_of(index, task, tensors.param);
    } catch (...) {
        tensors.each(release);
        throw;
    }
    tasks_.push_back(task);
    counters_.push_back(counter);
    refs_.push_back(tensors);
    places_.push_back({group_, index, programmed_, false});
    if (std::find(devices_.begin(), devices_.end(), task.device) == devices_.end()) devices_.push_back(task.device);
    return true;
}

void Step::depend_on(const py::object& loss_scale, const py::object& found_inf) {
    loss_scale_ = loss_scale;
    found_inf_ = found_inf;
}

py::list Step::add_group(const py::tuple& update, const py::dict& prologue, double max_grad_norm,
                         const py::object& scalars, const py::list& params, const py::dict& state,
                         const py::object& learning_rate, const py::object& storage) {
    rule_ = &find_rule(update[0].cast<std::string>());
    keys_ = update[1].cast<py::tuple>();
    counts_ = update[2].cast<bool>();
    carried_keys_ = update[3].cast<py::tuple>();
    if (static_cast<int>(keys_.size()) != rule_->states) throw py::value_error("the rule has another number of states");
    if (carried_keys_.size() > kMaxCarried) throw py::value_error("too many carried states");
    if (kernels().rules[rule_->index].join_group != nullptr && shared_.data == nullptr)
        throw py::value_error("the rule's groups share numbers, which share() gives it");
    common_ = {};
    prologue_names().read(prologue, common_.prologue);
    common_.max_grad_norm = max_grad_norm;
    common_.masks = update[5].cast<bool>();
    common_.decays_cautiously = update[6].cast<bool>();
    if (is_cautious(common_) && kernels().rules[rule_->index].masked_f32[0].kernel == nullptr)
        throw py::value_error("the update of this rule cannot be cautious");
    common_.unscales = common_.prologue[kLossScale] != 1.0 || given(loss_scale_);
    storage_.reset();
    if (!storage.is_none()) storage_.emplace(storage.cast<py::tuple>(), common_);
    by_step_.clear();
    ++group_;
    programmed_ = nullptr;
    if (PyCallable_Check(scalars.ptr())) {
        scalars_ = scalars;
    } else {
        TensorView rate;
        if (given(learning_rate) && (!view(learning_rate.ptr(), rate) || rate.numel != 1 || rate.device == kHost ||
                                     (rate.type != DType::f32 && rate.type != DType::f64)))
            throw py::type_error("lr is not a float32 or float64 tensor of one element on a device");
        by_step_.push_back({0, {}, keep(common_)});
        programs_.push_back(
            {read_program(scalars.cast<py::tuple>(), *rule_), learning_rate, by_step_.back().constants, {}});
        programmed_ = &programs_.back();
    }

    const bool has_state = rule_->states > 0 || counts_ || storage_;
    py::list rest;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(params.ptr()); ++i) {
        const auto param = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(params.ptr(), i));
        py::object grad;
        if (rule_->reads_grad) {
            grad = grad_of(param.ptr());
            if (grad.is_none()) {
                walk_.pass(state.ptr(), param.ptr());
                continue;
            }
        }
        PyObject* own = has_state ? walk_.find(state.ptr(), param.ptr()) : nullptr;
        TensorRefs tensors{param.ptr(), param.ptr(), grad.ptr(), nullptr, {}, {}, false, {}};
        const bool complete = !has_state || find_entries(own, i, tensors);
        if (!complete || !try_add(tensors, i, 2)) rest.append(i);
    }
    left_out_ |= !rest.empty();
    return rest;
}

bool Step::find_entries(PyObject* own, Py_ssize_t index, TensorRefs& tensors) const {
    static PyObject* const step_name = PyUnicode_InternFromString("step");
    const auto find = [own](PyObject* key, PyObject*& out) {
        out = PyDict_GetItemWithError(own, key);
        if (out == nullptr && PyErr_Occurred()) throw py::error_already_set();
        return out != nullptr;
    };
    if (own == nullptr && (keys_.size() > 0 || carried_keys_.size() > 0 || counts_)) return false;
    if (own != nullptr && !PyDict_Check(own)) return false;
    for (size_t k = 0; k < keys_.size(); ++k)
        if (!find(PyTuple_GET_ITEM(keys_.ptr(), k), tensors.states[k])) return false;
    for (size_t k = 0; k < carried_keys_.size(); ++k)
        if (!find(PyTuple_GET_ITEM(carried_keys_.ptr(), k), tensors.carried[k])) return false;
    if (counts_ && !find(step_name, tensors.step)) return false;
    tensors.is_stored = storage_.has_value();
    return !storage_ || storage_->find(own, index, tensors.storage);
}

bool Step::add_fresh(int64_t index, const py::object& param, const py::dict& entries) {
    const py::object grad = rule_->reads_grad ? grad_of(param.ptr()) : py::object();
    TensorRefs tensors{param.ptr(), param.ptr(), grad.ptr(), nullptr, {}, {}, false, {}};
    return find_entries(entries.ptr(), index, tensors) && try_add(tensors, index, 1);
}

bool Step::add_prepared(int64_t index, const py::object& owner, const py::object& param, const py::object& grad,
                        const py::tuple& states, const py::object& step, const py::tuple& carried, int64_t t,
                        const py::object& storage) {
    if (states.size() != keys_.size() || carried.size() != carried_keys_.size())
        throw py::value_error("the rule has another number of states");
    if (grad.is_none() == rule_->reads_grad) throw py::value_error("the rule and the gradient do not go together");
    const auto or_null = [](const py::object& object) { return object.is_none() ? nullptr : object.ptr(); };
    TensorRefs tensors{owner.ptr(), param.ptr(), or_null(grad), or_null(step), {}, {}, false, {}};
    for (size_t k = 0; k < states.size(); ++k) tensors.states[k] = PyTuple_GET_ITEM(states.ptr(), k);
    for (size_t k = 0; k < carried.size(); ++k) tensors.carried[k] = PyTuple_GET_ITEM(carried.ptr(), k);
    if (!storage.is_none()) {
        const auto parts = storage.cast<py::tuple>();
        tensors.is_stored = true;
        tensors.storage = {or_null(parts[0]), or_null(parts[1]), or_null(parts[2]), {}};
        const auto scales = parts[3].cast<py::tuple>();
        for (size_t k = 0; k < scales.size() && k < kMaxStates; ++k) tensors.storage.scales[k] = or_null(scales[k]);
    }
    return try_add(tensors, index, t);
}

py::object Step::check_overlap_and_bump_versions() {
    check_devices();
    if (const auto found = overlap_.find(tasks_, counters_)) {
        const auto owner = [this](const MemoryRange& range) {
            return py::reinterpret_borrow<py::object>(refs_[range.task].owner);
        };
        const auto& [a, b] = *found;
        return py::make_tuple(owner(a), a.role, owner(b), b.role);
    }
    size_t count = tasks_.size();
    const auto has_copy = [](const Task& task) {
        return task.storage != nullptr && task.storage->copy.data != nullptr;
    };
    for (const Task& task : tasks_) count += static_cast<size_t>(task.constants->unscales) + has_copy(task);
    if (written_.size() != count) written_ = py::list(count);
    size_t at = 0;
    for (size_t i = 0; i < tasks_.size(); ++i) {
        written_[at++] = py::handle(refs_[i].param);
        if (tasks_[i].constants->unscales) written_[at++] = py::handle(refs_[i].grad);
        if (has_copy(tasks_[i])) written_[at++] = py::handle(refs_[i].storage.copy);
    }
    increment_version(written_);
    return py::none();
}

}  // namespace fastopt
