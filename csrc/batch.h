// One step of one optimizer: gathers the tensors of all its groups, checks them, and updates them in
// one parallel region. Nothing is written before run().
#pragma once

#include <pybind11/pybind11.h>

#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "rule_table.h"
#include "tensor.h"

namespace fastopt {

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

    // Updates everything, and forgets it.
    void run(int threads);

    // Forgets what was gathered.
    void clear();

   private:
    struct Operands {
        PyObject *owner, *param, *grad, *step;
        PyObject* const* states;
    };

    // Parallel to tasks_: what a task points into, kept alive, and its 'step' tensor.
    struct Held {
        PyObject* objects[3 + kMaxStates + 1];  // owner, param, grad, states, step; null from the first unused one
        void* step;                             // null where there is none
        DType step_type;
        double count;  // what is to be written there
        PyObject* owner() const { return objects[0]; }
    };

    // Memory of one operand of one task.
    struct Range {
        const char *begin, *end;
        size_t task;
        const char* role;
    };

    // What the walk remembers of the parameter it met at the same place in the last step.
    struct Place {
        static constexpr int kTouches = 16;
        pybind11::object param;           // kept alive, so that its address means it
        void* data = nullptr;             // where it lay when it was known not to be lazily negated
        const char* touched[kTouches]{};  // what the walk read: it comes from all over the heap
        int touches = 0;
        void touch(const void* address, int offset = 0) {
            if (touches < kTouches) touched[touches++] = static_cast<const char*>(address) + offset;
        }
    };

    bool try_add(const Operands& operands, int64_t t, Place& place);
    void hold(const Operands& operands, const TensorView& step, int64_t t);
    const Constants* constants(int64_t t);
    PyObject* state_of(PyObject* param, PyObject* state);
    void skip_state_of(PyObject* param, PyObject* state);
    void peek_state(PyObject* state);
    Place& next_place();
    bool unmoved(size_t task) const;
    std::vector<Range> writes() const;
    pybind11::object conflict();
    pybind11::object describe(const Range& a, const Range& b) const;

    // The open group.
    const Rule* rule_ = nullptr;
    pybind11::object scalars_;
    bool counts_ = false;
    bool unscales_ = false;
    double prologue_[kMaxScalars] = {};
    std::vector<std::pair<int64_t, const Constants*>> by_step_;

    // The step.
    std::vector<Task> tasks_;
    std::vector<Held> held_;
    std::deque<Constants> constants_;

    // Memory seldom moves between steps: while it does not, the writes are known to be disjoint.
    std::vector<Task> last_tasks_;
    std::vector<void*> last_steps_;
    std::vector<Range> sorted_writes_;
    bool moved_ = true;

    std::vector<Place> places_;
    size_t next_place_ = 0;

    // Where the walk through the optimizer's state dict stands: its order is mostly the parameters'
    // own, which saves a hash of a tensor (a Python call) per parameter.
    Py_ssize_t state_position_ = 0;
    PyObject *next_key_ = nullptr, *next_state_ = nullptr;
};

}  // namespace fastopt
