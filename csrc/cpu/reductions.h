// Sums over tensors in one fixed shape: chunks of kSumChunk elements, 32 lanes in a chunk; the chunks' results go
// through 32 lanes again; all in double. So the result does not depend on ISA, threads or device, and squares of
// float32 cannot overflow.
#pragma once

#include "cpu/block.h"
#include "cpu/machine.h"
#include "math/sums.h"

namespace fastopt {
namespace {

FASTOPT_HD void clear(double* values, int n) {
    for (int i = 0; i < n; ++i) values[i] = 0;
}

template <class T>
FASTOPT_HD void add_onto(T* __restrict values, const T* __restrict others, int64_t n) {
    for (int64_t i = 0; i < n; ++i) values[i] += others[i];
}

// Element i goes to lane i % 32. `ahead`: how many elements ahead to prefetch; 0 means none.
template <class T, class Term, class Join>
FASTOPT_HD void gather(double* __restrict lanes, const T* __restrict values, int n, Term term, Join join,
                       int ahead = 0) {
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        if (ahead > 0)
            for (int k = 0; k < kLanes; k += int(64 / sizeof(T))) __builtin_prefetch(values + i + ahead + k);
        for (int l = 0; l < kLanes; ++l) lanes[l] = join(lanes[l], term(double(values[i + l])));
    }
    for (int l = 0; i + l < n; ++l) lanes[l] = join(lanes[l], term(double(values[i + l])));
}

// sum + x * x. The square of a float32 is exact in float64, so one fused operation rounds as the two do.
FASTOPT_HD double plus_square(double sum, float x) {
#if defined(__FMA__)
    return __builtin_fma(double(x), double(x), sum);
#else
    return sum + double(x) * double(x);
#endif
}

FASTOPT_HD double plus_square(double sum, double x) { return sum + x * x; }

// Adds squares to the lanes. Calls `before(i)` for every 32 elements.
template <class T, class Before>
FASTOPT_HD void gather_squares(double* __restrict lanes, const T* __restrict values, int n, Before before) {
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        before(i);
        for (int l = 0; l < kLanes; ++l) lanes[l] = plus_square(lanes[l], values[i + l]);
    }
    for (int l = 0; i + l < n; ++l) lanes[l] = plus_square(lanes[l], values[i + l]);
}

// Also adds each square to its element's sum in `each`; `kBegins` overwrites that sum instead.
template <bool kBegins, class T, class Before>
FASTOPT_HD void gather_squares(double* __restrict lanes, double* __restrict each, const T* __restrict values, int n,
                               Before before) {
    const auto add = [&](int i, int l) {
        const T x = values[i + l];
        lanes[l] = plus_square(lanes[l], x);
        each[i + l] = kBegins ? double(x) * double(x) : plus_square(each[i + l], x);
    };
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        before(i);
        for (int l = 0; l < kLanes; ++l) add(i, l);
    }
    for (int l = 0; i + l < n; ++l) add(i, l);
}

// Merges the lanes in place, halves onto halves.
template <int kHalf = kLanes / 2, class Join>
FASTOPT_HD double merge(double* lanes, Join join) {
    for (int l = 0; l < kHalf; ++l) lanes[l] = join(lanes[l], lanes[l + kHalf]);
    if constexpr (kHalf > 1) return merge<kHalf / 2>(lanes, join);
    return lanes[0];
}

constexpr auto kNothing = [](int) {};
constexpr auto kPlus = [](double a, double b) { return a + b; };

// The sum of any number of values in 32 lanes: for the results of chunks. Without values it is `start`.
template <class T, class Join>
FASTOPT_NOINLINE double in_lanes(const T* values, int64_t n, double start, Join join) {
    alignas(64) double lanes[kLanes];
    for (double& lane : lanes) lane = start;
    for (int64_t i = 0; i < n; i += kBlock)
        gather(lanes, values + i, int(n - i < kBlock ? n - i : kBlock), [](double x) { return x; }, join);
    return merge(lanes, join);
}

// The sum of numbers in memory, in chunks.
template <class T>
FASTOPT_NOINLINE double sum(const T* values, int64_t n) {
    if (n <= kSumChunk) return in_lanes(values, n, 0, kPlus);
    alignas(64) double lanes[kLanes] = {};
    int lane = 0;
    for (int64_t chunk = 0; chunk < n; chunk += kSumChunk, lane = (lane + 1) % kLanes)
        lanes[lane] += in_lanes(values + chunk, n - chunk < kSumChunk ? n - chunk : kSumChunk, 0, kPlus);
    return merge(lanes, kPlus);
}

// Reads the gradient, or the parameter where there is no gradient. The exponent is the first scalar.
template <class Sum, class T>
void reduce(const Task& task, int64_t begin, int64_t end) {
    const Array& source = task.grad.data != nullptr ? task.grad : task.param;
    const double p = task.constants->rule[0];
    alignas(64) T buffer[kBlock];
    alignas(64) double lanes[kLanes];
    for (int64_t chunk = begin; chunk < end; chunk += kSumChunk) {
        const int64_t chunk_end = end - chunk < kSumChunk ? end : chunk + kSumChunk;
        for (double& lane : lanes) lane = Sum::start;
        for (int64_t at = chunk; at < chunk_end; at += kBlock) {
            const int n = int(chunk_end - at < kBlock ? chunk_end - at : kBlock);
            const T* values = load(source, at, n, buffer);
            const int ahead = values != buffer ? int(machine.ahead / int64_t(sizeof(T))) : 0;
            gather(lanes, values, n, [p](double x) { return Sum::term(x, p); }, Sum::join, ahead);
        }
        task.partials[chunk / kSumChunk] = merge(lanes, Sum::join);
    }
}

// The norm from the results of all chunks.
template <class Sum>
double norm_of(const double* partials, int64_t n, double p) {
    return Sum::norm(in_lanes(partials, n, Sum::start, Sum::join), p);
}

}  // namespace
}  // namespace fastopt
