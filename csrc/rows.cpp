#include "rows.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace py = pybind11;

namespace fastopt {
namespace {

constexpr int64_t kAhead = 8;  // rows that are asked for before they are needed: they lie anywhere

struct Entry {
    int64_t number, place;
};

// Stable. By 11 bits at a time, where there is enough to sort.
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

template <class T>
int64_t sum_sorted(const std::vector<Entry>& entries, const T* values, int64_t width, int64_t* numbers, T* out) {
    int64_t count = 0;
    const auto size = static_cast<int64_t>(entries.size());
    for (int64_t i = 0; i < size; ++i) {
        const Entry& entry = entries[static_cast<size_t>(i)];
        if (i + kAhead < size) __builtin_prefetch(values + entries[static_cast<size_t>(i + kAhead)].place * width);
        const T* from = values + entry.place * width;
        if (count > 0 && numbers[count - 1] == entry.number) {
            T* to = out + (count - 1) * width;
            for (int64_t k = 0; k < width; ++k) to[k] += from[k];
        } else {
            numbers[count] = entry.number;
            std::copy(from, from + width, out + count++ * width);
        }
    }
    return count;
}

bool take_host(py::handle tensor, TensorView& out) {
    return view(tensor.ptr(), out) && out.device == kHost && is_contiguous(out) && out.ndim > 0;
}

}  // namespace

int64_t sum_rows(py::handle numbers, py::handle values, py::handle out_numbers, py::handle out_values) {
    TensorView from, to;
    if (!take_host(values, from) || !take_host(out_values, to) || !same_layout(from, to) || from.type != to.type ||
        from.complex || element_size(from.type) < 4)
        return -1;
    const auto* given = static_cast<const int64_t*>(memory_of(numbers).data);
    auto* found = static_cast<int64_t*>(memory_of(out_numbers).data);
    const int64_t count = from.sizes[0];
    if (count == 0) return 0;
    std::vector<Entry> entries(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) entries[static_cast<size_t>(i)] = {given[i], i};
    sort_by_number(entries);
    const int64_t width = from.numel / count;
    if (from.type == DType::f32)
        return sum_sorted(entries, static_cast<const float*>(from.data), width, found, static_cast<float*>(to.data));
    return sum_sorted(entries, static_cast<const double*>(from.data), width, found, static_cast<double*>(to.data));
}

bool copy_rows(py::handle tensor, py::handle numbers, py::handle rows, bool back) {
    TensorView all, some;
    if (!take_host(tensor, all) || !take_host(rows, some) || all.type != some.type || all.complex != some.complex ||
        all.ndim != some.ndim || !std::equal(all.sizes + 1, all.sizes + all.ndim, some.sizes + 1))
        return false;
    const auto* given = static_cast<const int64_t*>(memory_of(numbers).data);
    const int64_t count = some.sizes[0];
    if (!std::all_of(given, given + count, [&](int64_t n) { return n >= 0 && n < all.sizes[0]; })) return false;
    if (some.numel == 0) return true;
    const int64_t bytes = some.numel / count * element_size(some.type);
    auto* const in = static_cast<char*>(all.data);
    auto* row = static_cast<char*>(some.data);
    for (int64_t i = 0; i < count; ++i, row += bytes) {
        if (i + kAhead < count)
            for (int64_t line = 0; line < std::min<int64_t>(bytes, 512); line += 64)
                __builtin_prefetch(in + given[i + kAhead] * bytes + line);
        char* const there = in + given[i] * bytes;
        std::memcpy(back ? there : row, back ? row : there, static_cast<size_t>(bytes));
    }
    return true;
}

}  // namespace fastopt
