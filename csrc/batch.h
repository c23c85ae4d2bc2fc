// One step of one optimizer: gathers the tensors of all its groups, checks them, and updates them in
// one parallel region. Nothing is written before run().
#pragma once

#include <pybind11/pybind11.h>

#include <deque>
#include <string>
#include <vector>

#include "rule_table.h"
#include "tensor.h"

namespace fastopt {

class Batch {
   public:
    // Forgets the last step's tensors.
    void begin();

    // What follows belongs to a group updated by `rule`. `scalars(t)` returns the rule's scalars for
    // the t-th update of a parameter; it is called once per distinct t. Where `counts`, a parameter's
    // state has a 'step'; otherwise t is 1 for a parameter without state and 2 for all others.
    void open(const std::string& rule, const pybind11::dict& prologue, const pybind11::function& scalars, bool counts);

    // Adds every parameter that has a gradient and needs no preparation. Returns the indices of the
    // others: fresh, of another layout, or wrong.
    pybind11::list take(const pybind11::list& params, const pybind11::dict& state, const pybind11::tuple& keys);

    // Adds one prepared parameter for its t-th update; `step` is None or where t is to be written.
    // `owner` is the optimizer's parameter where `param` is a dense stand-in for it.
    void add(const pybind11::object& owner, const pybind11::object& param, const pybind11::object& grad,
             const pybind11::tuple& states, const pybind11::object& step, int64_t t);

    // None, or (owner, role, owner, role) of two tensors that share memory one of them is written to.
    pybind11::object conflict();

    // The tensors run() will write to as torch sees them: parameters, and gradients that are unscaled.
    pybind11::list written() const;

    void run(int threads);

   private:
    struct Counter {  // a 'step' tensor and the value it gets
        void* data;
        DType type;
        double value;
    };
    struct Range {
        const char *begin, *end;
        size_t task;
        const char* role;
        bool operator==(const Range& o) const { return begin == o.begin && end == o.end && task == o.task; }
    };
    struct Operands {
        PyObject *owner, *param, *grad, *step;
        PyObject* const* states;
    };

    bool try_add(const Operands& operands, int64_t t);
    const Constants* constants(int64_t t);
    PyObject* state_of(PyObject* param, PyObject* state);
    void skip_state_of(PyObject* param, PyObject* state);
    void peek_state(PyObject* state);
    pybind11::object describe(const Range& a, const Range& b) const;

    // The open group.
    const Rule* rule_ = nullptr;
    pybind11::function scalars_;
    bool counts_ = false;
    bool unscales_ = false;
    double prologue_[kMaxScalars] = {};
    std::vector<std::pair<int64_t, const Constants*>> by_step_;

    // The step.
    std::vector<Task> tasks_;
    std::deque<Constants> constants_;
    std::vector<Counter> counters_;
    std::vector<pybind11::object> owners_;  // one per task
    std::vector<pybind11::object> kept_;    // what the tasks point into
    std::vector<pybind11::object> written_;
    std::vector<Range> writes_, reads_;

    // Where the walk through the optimizer's state dict stands: its order is mostly the parameters'
    // own, which saves a hash of a tensor (a Python call) per parameter.
    Py_ssize_t state_position_ = 0;
    PyObject *next_key_ = nullptr, *next_state_ = nullptr;

    // The last step's writes and their sorted form: memory seldom moves between steps.
    std::vector<Range> known_writes_, sorted_writes_;
};

}  // namespace fastopt
