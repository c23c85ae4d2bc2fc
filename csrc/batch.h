// One step of one optimizer: gathers the tensors of all its groups, checks them, and updates them in
// one parallel region. Nothing is written before run().
#pragma once

#include <pybind11/pybind11.h>

#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "overlap.h"
#include "rule_table.h"
#include "tensor.h"

namespace fastopt {

// Finds a parameter's entry in the optimizer's state dict. The dict's order is mostly that of the
// walk through the parameters, and going along with it saves a hash of a tensor (a Python call) each.
class StateWalk {
   public:
    void restart() { position_ = 0; }

    // Borrowed, or null where there is no entry. Throws what Python throws.
    PyObject* find(PyObject* state, PyObject* param);

    // The entry if it is the one that comes next; goes past it. For a parameter without gradient, which
    // is not worth a hash, this is all.
    PyObject* pass(PyObject* state, PyObject* param);

   private:
    Py_ssize_t position_ = 0;  // of the entry expected next; no pointer, as the dict may change
};

class Batch {
   public:
    Batch() = default;
    Batch(const Batch&) = delete;
    Batch& operator=(const Batch&) = delete;
    ~Batch();

    // Adds every parameter of a group that has a gradient and needs no preparation. Returns the indices
    // of the others: fresh, of another layout, or wrong.
    // `scalars(t)` returns the rule's scalars for the t-th update of a parameter; it is called once per
    // distinct t. Where `counts`, a parameter's state has a 'step'; otherwise t is 1 for a parameter
    // without state and 2 for all others. `keys` are the states in the optimizer's state dict.
    pybind11::list take(const std::string& rule, const pybind11::tuple& keys, bool counts,
                        const pybind11::dict& prologue, const pybind11::object& scalars, const pybind11::list& params,
                        const pybind11::dict& state);

    // Adds one prepared parameter of the group of the last take(). `owner` is the optimizer's parameter
    // where `param` is a dense stand-in for it; `t` counts where the group does not.
    void add(const pybind11::object& owner, const pybind11::object& param, const pybind11::object& grad,
             const pybind11::tuple& states, const pybind11::object& step, int64_t t);

    // Ends the gathering. Returns (owner, role, owner, role) of two tensors that share memory one of
    // them is written to; or None, and then torch knows that parameters, and gradients that are
    // unscaled, are about to change.
    pybind11::object settle();

    // Updates everything gathered.
    void run(int threads);

    // Lets go of everything gathered.
    void clear();

   private:
    // Parallel to tasks_: the tensors a task points into, kept alive.
    struct Held {
        PyObject *owner, *param, *grad, *step;  // step: null where the rule does not count
        PyObject* states[kMaxStates];           // null from the first unused one
        void release() const;
    };

    bool try_add(const Held& borrowed, int64_t t);
    bool describe(const Held& held, int64_t t, Task& task, Counter& counter);
    const Constants* constants(int64_t t);

    // The group.
    const Rule* rule_ = nullptr;
    pybind11::object scalars_;
    bool counts_ = false;
    bool unscales_ = false;
    double prologue_[kMaxScalars] = {};
    std::vector<std::pair<int64_t, const Constants*>> by_step_;

    // The step: an entry per parameter in each.
    std::vector<Task> tasks_;
    std::vector<Counter> counters_;
    std::vector<Held> held_;

    std::deque<Constants> constants_;
    StateWalk walk_;
    OverlapCheck overlap_;
};

}  // namespace fastopt
