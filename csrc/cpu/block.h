// A block of elements in L1: loads it in the compute type, prepares its gradient, stores it.
#pragma once

#include "cpu/convert.h"
#include "cpu/stream.h"
#include "math/element.h"
#include "rules/prologue.h"
#include "rules/scalars.h"

// Rows of a block never alias: overlap.cpp finds tensors that share memory, and the step is refused.
#if defined(__clang__)
#define FASTOPT_VECTORIZE _Pragma("clang loop vectorize(assume_safety)")
#else
#define FASTOPT_VECTORIZE _Pragma("GCC ivdep")
#endif

namespace fastopt {
namespace {

// Calls visit(format) with the storage format of an array.
template <class T, class Visit>
FASTOPT_HD void with_format(DType type, Visit visit) {
    if constexpr (sizeof(T) == sizeof(float)) {
        if (type == DType::bf16) return visit(BFloat16());
        if (type == DType::f16) return visit(Float16());
    }
    visit(Native<T>());
}

// Types that are rarely seen together: float64 with a float32 parameter, any other type with a float64 one.
template <class T>
FASTOPT_NOINLINE void convert_from(const Array& array, int64_t at, int n, T* __restrict to) {
    for (int i = 0; i < n; ++i) to[i] = T(element(array, at + i));
}

template <class T>
FASTOPT_NOINLINE void convert_to(const Array& array, int64_t at, int n, const T* __restrict from) {
    for (int i = 0; i < n; ++i) set_element(array, at + i, double(from[i]));
}

// Returns the elements [at, at + n) in the compute type: the tensor's own memory where it has that type.
template <class T>
T* load(const Array& array, int64_t at, int n, T* buffer) {
    if (array.type == kNative<T>) return static_cast<T*>(array.data) + at;
    if constexpr (sizeof(T) == sizeof(float)) {
        const uint16_t* half = static_cast<const uint16_t*>(array.data) + at;
        if (array.type == DType::bf16) {
            widen<BFloat16>(half, buffer, n);
            return buffer;
        }
        if (array.type == DType::f16) {
            widen<Float16>(half, buffer, n);
            return buffer;
        }
    }
    convert_from(array, at, n, buffer);
    return buffer;
}

// `streams`: writes past the caches.
FASTOPT_HD void copy(void* to, const void* from, size_t bytes, bool streams) {
    if (streams)
        stream(to, from, bytes);
    else if (to != from)
        __builtin_memcpy(to, from, bytes);
}

// Writes the elements [at, at + n). Where load() returned the tensor's own memory there is nothing to do.
template <class T>
void store(const Array& array, int64_t at, int n, const T* values, bool streams = false) {
    if (array.type == kNative<T>) {
        copy(static_cast<T*>(array.data) + at, values, static_cast<size_t>(n) * sizeof(T), streams);
        return;
    }
    if (sizeof(T) == sizeof(double) || array.type == DType::f64) return convert_to(array, at, n, values);
    if constexpr (sizeof(T) == sizeof(float)) {
        uint16_t* const own = static_cast<uint16_t*>(array.data) + at;
        alignas(64) uint16_t buffer[kBlock];
        uint16_t* const half = streams ? buffer : own;
        if (array.type == DType::bf16)
            narrow<BFloat16>(values, half, n);
        else
            narrow<Float16>(values, half, n);
        copy(own, half, static_cast<size_t>(n) * sizeof(uint16_t), streams);
    }
}

// Prefetches elements to read or (`kWrite`) to write, because hardware prefetchers stop at every 4 KiB page.
template <bool kWrite = false>
FASTOPT_HD void prefetch(const Array& array, int64_t at, int n) {
    const int size = array.type == DType::f64 ? 8 : array.type == DType::f32 ? 4 : 2;
    const char* const begin = static_cast<const char*>(array.data) + at * size;
    for (int byte = 0; byte < n * size; byte += 64) __builtin_prefetch(begin + byte, kWrite);
}

// Gradients after the prologue, one block at a time.
template <class T>
struct Gradients {
    const Task& task;
    const Prologue::Scalars<T> common;
    const bool unscales, changes;

    explicit Gradients(const Task& of)
        : task(of),
          common(round_scalars<Prologue::Scalars, T>(of.constants->prologue)),
          unscales(of.constants->unscales),
          changes(unscales || Prologue::changes_grad(common)) {}

    // Returns the elements [at, at + n) in the tensor's own memory where they need no change, otherwise in `buffer`.
    // `write_back` stores unscaled gradients in the tensor.
    T* prepare(const T* param, int64_t at, int n, T* buffer, bool write_back) const {
        T* grad = load(task.grad, at, n, buffer);
        if (!changes) return grad;
        if (grad != buffer) __builtin_memcpy(buffer, grad, static_cast<size_t>(n) * sizeof(T));
        if (unscales) {
            Prologue::unscale(buffer, n, common);
            if (write_back) store(task.grad, at, n, buffer);
        }
        Prologue::gradient(param, buffer, n, common);
        return buffer;
    }
};

}  // namespace
}  // namespace fastopt
