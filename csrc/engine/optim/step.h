// One step of one optimizer: gathers the tensors of all its groups, checks them, and updates them in one parallel
// region. Nothing is written before run().
#pragma once

#include <pybind11/pybind11.h>

#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cuda/engine.h"
#include "engine/interop/tensor.h"
#include "engine/optim/overlap.h"
#include "engine/optim/pool.h"
#include "engine/optim/rule_table.h"
#include "engine/optim/state_walk.h"
#include "engine/optim/storage.h"
#include "engine/workers/run.h"
#include "rules/program.h"

namespace fastopt {

class Step {
   public:
    Step() = default;
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;
    ~Step();

    // Inputs of the whole step that only a device knows, float32 tensors there or None: GradScaler's scale, which
    // divides the gradients, and found_inf, which makes the step do nothing. Call before the first add_group().
    void depend_on(const pybind11::object& loss_scale, const pybind11::object& found_inf);

    // Adds every parameter of a group that needs no preparation, and has a gradient if the rule reads one. Returns the
    // indices of the others with a gradient: fresh, of another layout, or wrong.
    // `update` is (rule, keys of its states in the optimizer's state dict, whether a parameter's state has a 'step',
    // keys of scalars that are carried from step to step, whether it needs sums over the whole parameter, whether the
    // update is cautious, whether the decay is).
    // `scalars(t, *carried)` returns the rule's scalars for the t-th update of a parameter and the next carried values;
    // it is called once per distinct argument. If the update does not count, t is 1 for a parameter without state and 2
    // for all others.
    // `scalars` may also be a program for the device that has the counters. It then computes the prologue's scalars as
    // well, from `learning_rate`, a tensor on that device or None.
    pybind11::list add_group(const pybind11::tuple& update, const pybind11::dict& prologue, double max_grad_norm,
                             const pybind11::object& scalars, const pybind11::list& params, const pybind11::dict& state,
                             const pybind11::object& learning_rate, const pybind11::object& storage);

    // Call before an add_group(): run() leaves statistics of each parameter of the group in a table, a float64 tensor
    // of kStatistics columns: of the parameter at index i in row first + i, or first + indices[i] where indices are
    // given. `table_of(param)` returns the table on a parameter's device, and is called once for each device in a step.
    // Other rows become NaN. On a device that finds an inf, tables stay as they are. A rule that reads no gradient
    // leaves none.
    void leave_statistics(const pybind11::object& table_of, int64_t first, const pybind11::object& indices);

    // Call before an add_group() of a grouped rule: the numbers that all groups share, a float64 tensor on the device
    // of all parameters. run() moves them on.
    void share(const pybind11::object& numbers);

    // Adds one prepared parameter: the one at `index` in the group of the last add_group(). `owner` is the optimizer's
    // parameter if `param` is a dense copy of it; `t` is the count if the group does not count.
    // Returns false if the engine cannot take an operand as it is.
    bool add_prepared(int64_t index, const pybind11::object& owner, const pybind11::object& param,
                      const pybind11::object& grad, const pybind11::tuple& states, const pybind11::object& step,
                      const pybind11::tuple& carried, int64_t t, const pybind11::object& storage);

    // Adds the parameter at `index` of the last add_group() with its first states, the `entries` of its future state
    // dict. Returns false if it needs preparation, like the parameters that add_group() leaves out.
    bool add_fresh(int64_t index, const pybind11::object& param, const pybind11::dict& entries);

    // Call after the last add. Parameters of a grouped rule have to be on one device. If a written tensor shares memory
    // with another, returns (owner, role, owner, role) of the two; otherwise returns None, having told torch that
    // parameters, and gradients that are unscaled, will change.
    pybind11::object check_overlap_and_bump_versions();

    // The norm of the gradients of all groups whose max_grad_norm is not negative, divided by the loss scale; of the
    // parameters where the rule reads no gradient. `reduction` names a sum of the kernels, `exponent` is that of
    // "powers". Returns a float or, if everything is on one device, a float64 tensor there, without waiting for it.
    pybind11::object norm(const std::string& reduction, double exponent, double loss_scale, int threads);

    // Scales the gradients of each group by max_grad_norm / (norm + 1e-6), if that is less than 1.
    void clip(const pybind11::object& norm);

    // Updates the parameters among `owners` that are gathered and not updated yet; all have to be on the CPU. Where a
    // gradient comes later than the call of norm() or add, it has to be there now.
    void run_some(const pybind11::list& owners, int threads);

    // Updates everything gathered that is not updated yet.
    void run(int threads);

    // Releases everything gathered.
    void clear();

   private:
    // Parallel to tasks_: keeps the tensors that a task points into alive.
    struct TensorRefs {
        PyObject *owner, *param, *grad, *step;  // grad, step: null where the rule has none
        PyObject* states[kMaxStates];           // null from the first unused one on
        PyObject* carried[kMaxCarried];
        bool is_stored;  // whether `storage` has anything
        StorageRefs storage;
        template <class Visit>
        void each(Visit visit) const;
    };

    // A group whose scalars the device computes.
    struct Programmed {
        Program program;
        pybind11::object learning_rate;  // a tensor on any device, or None
        const Constants* common;
        Array there;  // the learning rate on the device that is run
    };

    // A parameter's position, because sums go in the order of group and index, its group's program or null,
    // and whether it is updated.
    struct ParamIndex {
        int64_t group, index;
        const Programmed* programmed;
        bool is_done = false;
    };

    // Of the statistics, on one device.
    struct Table {
        pybind11::object tensor;
        int device;
        double* data;
        int64_t rows;
        bool is_blank = true;  // whether the step has not written to it yet
    };

    bool find_entries(PyObject* own, Py_ssize_t index, TensorRefs& tensors) const;
    bool try_add(const TensorRefs& tensors, int64_t index, int64_t t);
    bool read_counter(const TensorRefs& refs, Counter& counter, int64_t t, const Constants*& scalars);
    bool describe_counter(const TensorRefs& refs, const TensorView& param, Counter& counter, const Constants*& scalars);
    bool describe(const TensorRefs& refs, int64_t index, int64_t t, Task& task, Counter& counter);
    bool describe_state(PyObject* state, const TensorView& param, int k, Task& task) const;
    const Constants* constants(int64_t t, const double* carried);
    const Constants* keep(const Constants& fresh);

    const std::vector<Task*>& tasks_on(int device);
    bool is_earlier(size_t a, size_t b) const;
    const std::vector<const Task*>& grouped_tasks();
    void place_sums(double* sums);  // to the tasks that grouped_tasks() found
    void measure(const Constants& constants);
    pybind11::object norm_on(int device, int reduction, double exponent, double loss_scale);
    void fetch_partials(int device, int reduction, double exponent);
    void run_on_host(const std::vector<Task*>& tasks, int threads);
    void write_counters(size_t i);
    void join_groups();
    void check_devices() const;
    Table* table_on(int device);  // null in a step without statistics
    double* row_of(int64_t index, const Task& task, PyObject* param);
    void write_statistics(const std::vector<Task*>& tasks);
    void run_on(int device);
    void prepare_scalars_on(const cuda::Stream& stream, const std::vector<Task*>& tasks, ScalarSet* sets,
                            const cuda::DeviceInputs& inputs);
    void prepare_storages_on(const cuda::Stream& stream, const std::vector<Task*>& tasks, Storage* there);

    // For the whole step.
    pybind11::object loss_scale_, found_inf_, norm_;
    pybind11::object table_of_;  // null in a step without statistics
    std::vector<Table> tables_;
    pybind11::object held_shared_;
    TensorView shared_{};  // of a grouped rule; without data in other steps

    // For the current group.
    const Rule* rule_ = nullptr;
    pybind11::object scalars_;
    pybind11::tuple keys_, carried_keys_;
    std::optional<GroupStorage> storage_;  // none where the group has no such option
    bool counts_ = false;
    int64_t first_row_ = 0;           // of the statistics
    std::vector<int64_t> more_rows_;  // the parameters' distances from it; empty where they have no gaps
    int64_t group_ = 0;
    Constants common_{};  // the same in all constants of the group
    const Programmed* programmed_ = nullptr;
    struct ByStep {
        int64_t t;
        double carried[kMaxCarried];
        const Constants* constants;
    };
    std::vector<ByStep> by_step_;

    // For the whole step: one entry per parameter in each.
    std::vector<Task> tasks_;
    std::vector<Counter> counters_;
    std::vector<TensorRefs> refs_;
    std::vector<ParamIndex> places_;

    Pool<Constants> constants_;
    Pool<Storage> storages_;
    std::deque<Programmed> programs_;
    std::vector<int> devices_;  // those that have a task

    // Whether to ask gradients if they are strided: in the first use of a Step, and after one that left a parameter
    // out. The question takes much of the time that gathering a small gradient takes.
    bool asks_layouts_ = true, left_out_ = false;

    // Memory that every step reuses.
    pybind11::list written_;       // what autograd is told about; None between steps
    std::vector<Task*> on_one_;    // the tasks of one device that are to be updated
    std::vector<Job<Task>> jobs_;  // those on the host
    std::vector<size_t> order_;    // indices of the tasks that enter a norm, or a grouped rule's sums
    std::vector<const Task*> grouped_;
    std::vector<Task> measured_;    // copies of these tasks
    std::vector<double> partials_;  // their partial results
    std::vector<double> scratch_, statistics_;
    StateWalk walk_;
    OverlapCheck overlap_;
};

// Partial results of a sum, scratch memory and statistics are stored task after task.
int64_t count_chunks(const std::vector<Task>& tasks);
void place_partials(std::vector<Task>& tasks, int device, double* first);
inline size_t sums_size(size_t grouped) { return 2 * grouped + 1; }
int64_t scratch_size(const Task& task);  // in doubles: 0 unless the task has several passes
void place_scratch(const std::vector<Task*>& tasks, double* first);
int64_t count_statistics(const std::vector<Task*>& tasks);  // in doubles
void place_statistics(const std::vector<Task*>& tasks, double* first);

}  // namespace fastopt
