#include "engine/optim/rows.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "engine/interop/run_without_gil.h"

namespace py = pybind11;

namespace fastopt {
namespace {

constexpr int64_t kAhead = 8;  // rows to prefetch ahead, because they are scattered

struct Entry {
    int64_t number, place;
};

// Sorts stably: by radix, 11 bits at a time, where there are enough entries.
void sort_by_number(std::vector<Entry>& entries) {
    constexpr int kBits = 11;
    constexpr size_t kFew = 256;
    const auto less = [](const Entry& a, const Entry& b) { return a.number < b.number; };
    if (std::is_sorted(entries.begin(), entries.end(), less)) return;
    const auto [least, largest] = std::minmax_element(entries.begin(), entries.end(), less);
    const auto whole = static_cast<uint64_t>(largest->number);
    if (entries.size() < kFew || least->number < 0) {
        std::stable_sort(entries.begin(), entries.end(), less);
        return;
    }
    std::vector<Entry> other(entries.size());
    for (int shift = 0; shift < 64 && whole >> shift != 0; shift += kBits) {
        std::array<size_t, 1 << kBits> begin{};
        const auto digit = [=](const Entry& e) { return (static_cast<uint64_t>(e.number) >> shift) % begin.size(); };
        for (const Entry& entry : entries) ++begin[digit(entry)];
        size_t sum = 0;
        for (size_t& count : begin) sum += std::exchange(count, sum);
        for (const Entry& entry : entries) other[begin[digit(entry)]++] = entry;
        entries.swap(other);
    }
}

// Entries sorted by number, and where the entries of each number start; one more start marks the end.
struct Summing {
    std::vector<Entry> entries;
    std::vector<int64_t> starts;
    const void* values;
    int64_t width;
    int64_t* numbers;
    void* out;
};

template <class T>
void sum_sorted(const Summing& task, int64_t begin, int64_t end) {
    const T* const values = static_cast<const T*>(task.values);
    const Entry* const entries = task.entries.data();
    const auto size = static_cast<int64_t>(task.entries.size());
    for (int64_t r = begin; r < end; ++r) {
        T* const to = static_cast<T*>(task.out) + r * task.width;
        const int64_t first = task.starts[static_cast<size_t>(r)], last = task.starts[static_cast<size_t>(r) + 1];
        task.numbers[r] = entries[first].number;
        for (int64_t i = first; i < last; ++i) {
            if (i + kAhead < size) __builtin_prefetch(values + entries[i + kAhead].place * task.width);
            const T* const from = values + entries[i].place * task.width;
            if (i == first)
                std::copy(from, from + task.width, to);
            else
                for (int64_t k = 0; k < task.width; ++k) to[k] += from[k];
        }
    }
}

struct Copying {
    char* tensor;
    const int64_t* numbers;
    char* rows;
    int64_t count, bytes;
    bool back;
};

void copy_some(const Copying& task, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
        if (i + kAhead < task.count)
            for (int64_t line = 0; line < std::min<int64_t>(task.bytes, 512); line += 64)
                __builtin_prefetch(task.tensor + task.numbers[i + kAhead] * task.bytes + line);
        char *const there = task.tensor + task.numbers[i] * task.bytes, *const row = task.rows + i * task.bytes;
        std::memcpy(task.back ? there : row, task.back ? row : there, static_cast<size_t>(task.bytes));
    }
}

bool take_host(py::handle tensor, TensorView& out) {
    return view(tensor.ptr(), out) && out.device == kHost && is_contiguous(out) && out.ndim > 0;
}

}  // namespace

int64_t sum_rows(py::handle numbers, py::handle values, py::handle out_numbers, py::handle out_values, int threads) {
    TensorView from, to;
    if (!take_host(values, from) || !take_host(out_values, to) || !same_layout(from, to) || from.type != to.type ||
        from.complex || element_size(from.type) < 4)
        return -1;
    const auto* given = static_cast<const int64_t*>(memory_of(numbers).data);
    const int64_t count = from.sizes[0];
    if (count == 0) return 0;
    Summing task{std::vector<Entry>(static_cast<size_t>(count)),     {},     from.data, from.numel / count,
                 static_cast<int64_t*>(memory_of(out_numbers).data), to.data};
    for (int64_t i = 0; i < count; ++i) task.entries[static_cast<size_t>(i)] = {given[i], i};
    sort_by_number(task.entries);
    task.starts.reserve(static_cast<size_t>(count) + 1);
    for (int64_t i = 0; i < count; ++i)
        if (i == 0 || task.entries[static_cast<size_t>(i)].number != task.entries[static_cast<size_t>(i) - 1].number)
            task.starts.push_back(i);
    task.starts.push_back(count);
    const auto found = static_cast<int64_t>(task.starts.size()) - 1;
    const auto kernel = from.type == DType::f32 ? sum_sorted<float> : sum_sorted<double>;
    run_released<Summing>({{kernel, &task, found, std::max<int64_t>(from.numel / found, 1)}}, threads);
    return found;
}

bool copy_rows(py::handle tensor, py::handle numbers, py::handle rows, bool back, int threads) {
    TensorView all, some;
    if (!take_host(tensor, all) || !take_host(rows, some) || all.type != some.type || all.complex != some.complex ||
        all.ndim != some.ndim || !std::equal(all.sizes + 1, all.sizes + all.ndim, some.sizes + 1))
        return false;
    const auto* given = static_cast<const int64_t*>(memory_of(numbers).data);
    const int64_t count = some.sizes[0];
    if (!std::all_of(given, given + count, [&](int64_t n) { return n >= 0 && n < all.sizes[0]; })) return false;
    if (some.numel == 0) return true;
    const int64_t width = some.numel / count;
    const Copying task{static_cast<char*>(all.data),    given, static_cast<char*>(some.data), count,
                       width * element_size(some.type), back};
    run_released<Copying>({{copy_some, &task, count, width}}, threads);
    return true;
}

}  // namespace fastopt
