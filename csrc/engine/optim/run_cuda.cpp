// Runs a gathered Step on a GPU: launches kernels, and never waits for them.
#include <algorithm>
#include <iterator>
#include <map>

#include "engine/interop/stream.h"
#include "engine/optim/step.h"
#include "rules/factored.h"

namespace py = pybind11;

namespace fastopt {
namespace {

template <class T>
T* reserve(int device, int64_t count, std::vector<py::object>& held) {
    const DeviceMemory memory = allocate(device, static_cast<size_t>(count) * sizeof(T));
    held.push_back(memory.tensor);
    return static_cast<T*>(memory.data);
}

// A tensor's one number, in memory that the device can read; without data where there is no tensor.
Array number_on(int device, const py::object& tensor, std::vector<py::object>& held) {
    if (!tensor || tensor.is_none()) return {};
    py::object there = tensor;
    TensorView v;
    bool good = view(there.ptr(), v);
    if (good && v.device != device) {
        there = tensor.attr("to")("cuda:" + std::to_string(device), py::arg("non_blocking") = true);
        good = view(there.ptr(), v);
    }
    if (!good || v.numel != 1 || (v.type != DType::f32 && v.type != DType::f64))
        throw py::type_error("a number that a step on " + std::to_string(device) + " depends on cannot be read there");
    held.push_back(there);
    return {v.data, v.type};
}

template <class T>
const T* number_of_type(int device, const py::object& tensor, std::vector<py::object>& held) {
    const Array number = number_on(device, tensor, held);
    if (number.data != nullptr && number.type != (sizeof(T) == sizeof(float) ? DType::f32 : DType::f64))
        throw py::type_error("a number that a step on " + std::to_string(device) + " depends on has another type");
    return static_cast<const T*>(number.data);
}

std::vector<const Task*> of_device(const std::vector<Task>& tasks, int device) {
    std::vector<const Task*> all;
    for (const Task& task : tasks)
        if (task.device == device && task.n > 0) all.push_back(&task);
    return all;
}

}  // namespace

py::object Step::norm_on(int device, int reduction, double exponent, double loss_scale) {
    const cuda::Stream stream = stream_of(device);
    std::vector<py::object> held;
    const int64_t chunks = count_chunks(measured_);
    double* const partials = reserve<double>(device, chunks, held);
    const DeviceMemory result = allocate(device, sizeof(double));
    const cuda::DeviceInputs inputs{number_of_type<float>(device, loss_scale_, held), nullptr, nullptr};
    place_partials(measured_, device, partials);
    const std::vector<const Task*> measured = of_device(measured_, device);
    {
        const py::gil_scoped_release released;
        cuda::reduce(stream, reduction, exponent, measured.data(), static_cast<int>(measured.size()));
        cuda::join(stream, reduction, exponent, partials, chunks, inputs, loss_scale,
                   static_cast<double*>(result.data));
    }
    return result.tensor.attr("view")(py::module_::import("torch").attr("float64")).attr("squeeze")();
}

// Copies partial results to the host, which joins them with those of other devices.
void Step::fetch_partials(int device, int reduction, double exponent) {
    std::vector<py::object> held;
    double* const there = reserve<double>(device, count_chunks(measured_), held);
    place_partials(measured_, device, there);
    const std::vector<const Task*> measured = of_device(measured_, device);
    cuda::reduce(stream_of(device), reduction, exponent, measured.data(), static_cast<int>(measured.size()));
    const py::object fetched = held[0].attr("cpu")();
    const auto* const all = reinterpret_cast<const double*>(fetched.attr("data_ptr")().cast<uintptr_t>());
    for (const Task* task : measured) {
        const int64_t first = task->partials - there;
        std::copy_n(all + first, tiles_along(task->n, kSumChunk), partials_.data() + first);
    }
}

// Writes first the sets that the host knows, in the order of constants_, then one per task of a program.
void Step::prepare_scalars_on(const cuda::Stream& stream, const std::vector<Task*>& tasks, ScalarSet* sets,
                              const cuda::DeviceInputs& inputs) {
    std::map<const Programmed*, std::vector<Task*>> counted;
    bool any_known = false;
    for (Task* task : tasks) {
        const Programmed* const programmed = places_[static_cast<size_t>(task - tasks_.data())].programmed;
        if (programmed != nullptr) counted[programmed].push_back(task);
        any_known |= programmed == nullptr;
        task->scalars = sets + task->constants->index;
    }
    if (any_known) {
        const std::vector<Constants> known(constants_.begin(), constants_.end());
        cuda::upload_scalars(stream, known.data(), static_cast<int>(known.size()), inputs, sets);
    }
    ScalarSet* next = sets + constants_.size();
    for (const auto& [programmed, own] : counted) {
        std::vector<Counter> counters;
        for (Task* task : own) {
            task->scalars = next + counters.size();
            counters.push_back(counters_[static_cast<size_t>(task - tasks_.data())]);
        }
        cuda::evaluate_scalars(stream, programmed->program, programmed->there, *programmed->common, counters.data(),
                               static_cast<int>(counters.size()), inputs, static_cast<const double*>(shared_.data),
                               next);
        next += counters.size();
    }
}

void Step::prepare_storages_on(const cuda::Stream& stream, const std::vector<Task*>& tasks, Storage* there) {
    std::vector<Storage> known;
    for (Task* task : tasks) {
        if (task->storage == nullptr) continue;
        task->device_storage = there + known.size();
        known.push_back(*task->storage);
    }
    cuda::upload(stream, known.data(), known.size() * sizeof(Storage), there);
}

void Step::run_on(int device) {
    const cuda::Stream stream = stream_of(device);
    const std::vector<Task*>& tasks = tasks_on(device);
    std::vector<py::object> held;
    const cuda::DeviceInputs inputs{number_of_type<float>(device, loss_scale_, held),
                                    number_of_type<float>(device, found_inf_, held),
                                    number_of_type<double>(device, norm_, held)};
    for (Programmed& programmed : programs_) programmed.there = number_on(device, programmed.learning_rate, held);
    int64_t doubles = 0;
    for (const Task* task : tasks) doubles += scratch_size(*task);
    ScalarSet* const sets = reserve<ScalarSet>(device, static_cast<int64_t>(constants_.size() + tasks.size()), held);
    place_scratch(tasks, reserve<double>(device, doubles, held));
    const Table* const table = table_on(device);
    std::vector<const Task*> measured;
    if (table != nullptr) {
        place_statistics(tasks, reserve<double>(device, count_statistics(tasks), held));
        std::copy_if(tasks.begin(), tasks.end(), std::back_inserter(measured),
                     [](const Task* task) { return task->row != nullptr; });
    }

    std::map<int, std::vector<const Task*>> by_rule;
    for (const Task* task : tasks)
        if (task->n > 0) by_rule[task->rule].push_back(task);
    if (shared_.data != nullptr && !grouped_tasks().empty()) {
        place_sums(reserve<double>(device, static_cast<int64_t>(sums_size(grouped_.size())), held));
        by_rule[grouped_[0]->rule] = grouped_;
    }
    Storage* storages = nullptr;
    if (storages_.size() > 0) storages = reserve<Storage>(device, static_cast<int64_t>(storages_.size()), held);
    const py::gil_scoped_release released;
    prepare_scalars_on(stream, tasks, sets, inputs);
    prepare_storages_on(stream, tasks, storages);
    for (const auto& [rule, own] : by_rule) cuda::update(stream, rule, own.data(), static_cast<int>(own.size()));
    if (table != nullptr)
        cuda::write_statistics(stream, measured.data(), static_cast<int>(measured.size()), table->data, table->rows,
                               inputs);
}

}  // namespace fastopt
