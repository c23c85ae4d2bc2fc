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

    // What the walk remembers of the parameter it met at the same place in the last step.
    struct Place {
        pybind11::object param;     // kept alive, so that its address means it
        void* data = nullptr;       // where it lay when it was known not to be lazily negated
        const void* touched[16]{};  // what the walk read: prefetched, as it comes from all over the heap
        int touches = 0;
        void touch(const void* address) {
            if (touches < 16) touched[touches++] = address;
        }
    };

    bool try_add(const Operands& operands, int64_t t, Place& place);
    const Constants* constants(int64_t t);
    PyObject* state_of(PyObject* param, PyObject* state);
    void skip_state_of(PyObject* param, PyObject* state);
    void peek_state(PyObject* state);
    void keep(PyObject* object);
    void write_range(const Array& array, int64_t n, const char* role);
    Place& next_place();
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
    std::deque<Constants> constants_;
    std::vector<Counter> counters_;
    std::vector<PyObject*> owners_;  // one per task; like all below kept alive by kept_
    std::vector<PyObject*> written_;
    std::vector<PyObject*> kept_;  // what the tasks point into
    std::vector<Range> reads_;

    // What the step will write. Memory seldom moves between steps: while it does not, these are the
    // last step's ranges, known to be disjoint.
    std::vector<Range> writes_, sorted_writes_;
    size_t write_count_ = 0;
    bool writes_known_ = false;

    std::vector<Place> places_;
    size_t next_place_ = 0;

    // Where the walk through the optimizer's state dict stands: its order is mostly the parameters'
    // own, which saves a hash of a tensor (a Python call) per parameter.
    Py_ssize_t state_position_ = 0;
    PyObject *next_key_ = nullptr, *next_state_ = nullptr;
};

}  // namespace fastopt
