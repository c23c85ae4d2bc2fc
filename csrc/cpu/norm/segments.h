// The elements of planes in the order of memory: where the cache holds nothing from the sums, or where each short
// segment of a channel would lie on another page.
#pragma once

#include "cpu/norm/planes.h"

namespace fastopt {
namespace {

template <class T>
void planes_fill_coefficients(const NormTask& task, int64_t begin, int64_t end) {
    auto* const all = static_cast<OneChannel<T>*>(task.coefficients);
    for (int64_t set = begin; set < end; ++set) {
        const Projection<T> less = projection_so_far<T>(task, set);
        for (int64_t c = set * task.group; c < (set + 1) * task.group; ++c)
            all[c] = {coefficients_of<T>(task, channel_at(task, c)), less};
    }
}

// Consecutive segments, or parts of them: at most a block.
struct Segments {
    int64_t at, channel;  // of the first element
    int n, offset;        // number of elements; the first one's place in its segment
};

// Blocks end where segments end, unless segments are longer than blocks.
template <class Visit>
FASTOPT_HD void for_segments(const NormLayout& l, int64_t begin, int64_t end, Visit visit) {
    for (int64_t at = begin; at < end;) {
        int64_t n = end - at;
        if (n > kBlock) n = l.inner <= kBlock ? kBlock - (at + kBlock) % l.inner : kBlock;
        const int64_t segment = at / l.inner;
        visit(Segments{at, segment % l.channels, int(n), int(at - segment * l.inner)});
        at += n;
    }
}

// Calls visit(first element, count, the channel's coefficients) for each of the segments.
template <class T, class Visit>
FASTOPT_HD void each(const NormTask& task, const Segments& some, Visit visit) {
    const auto* const all = static_cast<const OneChannel<T>*>(task.coefficients);
    int64_t c = some.channel, left = task.layout.inner - some.offset;
    for (int i = 0; i < some.n;) {
        const int n = int(left < some.n - i ? left : some.n - i);
        visit(i, n, all[c]);
        i += n;
        left = task.layout.inner;
        if (++c == task.layout.channels) c = 0;
    }
}

template <class T>
const T* load_some(const Array& array, const Segments& some, T* buffer) {
    return array.data != nullptr ? load(array, some.at, some.n, buffer) : nullptr;
}

template <class T>
void segments_apply(const NormTask& task, int64_t begin, int64_t end) {
    alignas(64) T buffer[kBlock], residual_buffer[kBlock];
    const bool direct = task.out.type == kNative<T> && !task.streams;
    for_segments(task.layout, begin, end, [&](const Segments& some) {
        const T* const x = load_some(task.input, some, buffer);
        const T* const residual = load_some(task.residual, some, residual_buffer);
        T* const out = direct ? static_cast<T*>(task.out.data) + some.at : buffer;
        each<T>(task, some, [&](int i, int n, const OneChannel<T>& numbers) {
            normalize(task, x + i, residual != nullptr ? residual + i : nullptr, out + i, n, numbers);
        });
        store(task.out, some.at, some.n, out, task.streams);
    });
    finish_streams();
}

template <class T>
void segments_gradient(const NormTask& task, int64_t begin, int64_t end) {
    alignas(64) T x_buffer[kBlock], grad_buffer[kBlock], residual_buffer[kBlock];
    const bool kept = task.kept.data != nullptr, enters = !kept && !passes(task);
    const bool direct = task.grad_input.type == kNative<T> && !task.streams;
    for_segments(task.layout, begin, end, [&](const Segments& some) {
        const T* const x = load_some(task.input, some, x_buffer);
        const T* grad = load_some(kept ? task.kept : task.grad, some, grad_buffer);
        if (enters) {
            const T* const residual = load_some(task.residual, some, residual_buffer);
            each<T>(task, some, [&](int i, int n, const OneChannel<T>& numbers) {
                activation_gradient(task, grad + i, x + i, residual != nullptr ? residual + i : nullptr,
                                    grad_buffer + i, n, numbers);
            });
            grad = grad_buffer;
        }
        if (stores_residual(task)) store(task.grad_residual, some.at, some.n, grad, task.streams);
        if (task.grad_input.data == nullptr) return;
        T* const out = direct ? static_cast<T*>(task.grad_input.data) + some.at : x_buffer;
        each<T>(task, some, [&](int i, int n, const OneChannel<T>& numbers) {
            input_gradient(task, grad + i, x + i, out + i, n, numbers);
        });
        add_grad_sum(task, some.at, some.n, out);
        store(task.grad_input, some.at, some.n, out, task.streams);
    });
    finish_streams();
}

template <class T>
constexpr NormKernels planes = {
    planes_moments<T>, planes_sums<T>,       planes_join_moments<T>, planes_join_sums<T>, planes_fill_coefficients<T>,
    segments_apply<T>, segments_gradient<T>, planes_forward<T>,      planes_backward<T>};

}  // namespace
}  // namespace fastopt
