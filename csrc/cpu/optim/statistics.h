// What a monitored step leaves of each part of a tensor (Statistic in common.h). The sums have the shape of all sums
// (cpu/reductions.h), so they do not depend on ISA and threads.
#pragma once

#include "cpu/optim/stored.h"
#include "cpu/reductions.h"
#include "rules/factored.h"

namespace fastopt {
namespace {

FASTOPT_HD bool any_not_finite(const double* lanes) {
    constexpr uint64_t kExponent = 0x7ff0000000000000;
    uint64_t found = 0;
    for (int l = 0; l < kLanes; ++l) {
        uint64_t bits;
        __builtin_memcpy(&bits, lanes + l, sizeof bits);
        found |= (bits & kExponent) == kExponent;
    }
    return found != 0;
}

template <class T>
FASTOPT_NOINLINE int count_not_finite(const T* values, int n) {
    int count = 0;
    for (int i = 0; i < n; ++i) count += !(values[i] - values[i] == 0);
    return count;
}

// Out of line, because most steps have no monitor.
template <class T>
class Statistics {
   public:
    explicit Statistics(const Task& task) : task_(task) {
        if (is_on()) restart();
    }

    FASTOPT_HD bool is_on() const { return task_.statistics != nullptr; }

    // Call with a block of the parameter before it is updated, of at most kMostStored elements. Copies of a known size
    // are a few vector moves, and no call.
    FASTOPT_NOINLINE void before(const T* param, int n) {
        int i = 0;
        for (; i + kLanes <= n; i += kLanes) __builtin_memcpy(before_ + i, param + i, kLanes * sizeof(T));
        __builtin_memcpy(before_ + i, param + i, static_cast<size_t>(n - i) * sizeof(T));
    }

    // Call with the block that was given to store_param(). The gradient is read once more, as it is in its tensor: the
    // rule's has been clipped and penalized.
    FASTOPT_NOINLINE void after(const Stored<T>& stored, int64_t at, int n, const T* param, T* param_buffer,
                                T* grad_buffer) {
        const T* const grad = load(task_.grad, at, n, grad_buffer);
        const T* const now = stored.kept(at, n, param, param_buffer);
        FASTOPT_VECTORIZE
        for (int i = 0; i < n; ++i) before_[i] = now[i] - before_[i];
        gather_squares(lanes_[kGradSquares], grad, n, kNothing);
        gather_squares(lanes_[kParamSquares], now, n, kNothing);
        gather_squares(lanes_[kUpdateSquares], before_, n, kNothing);
        // Lanes that have met such a square stay so: blocks before the first one need not be counted.
        if (any_not_finite(lanes_[kGradSquares])) not_finite_ += count_not_finite(grad, n);
    }

    // Ends a band of a tile (rules/factored.h), whose lanes are the work of a GPU's warp.
    FASTOPT_NOINLINE void end_band() {
        for (int k = 0; k < kNonFinite; ++k) {
            if (!has_bands_) clear(bands_[k], kLanes);
            add_onto(bands_[k], lanes_[k], kLanes);
            clear(lanes_[k], kLanes);
        }
        has_bands_ = true;
    }

    // Ends a part of the tensor and begins the next. Where there were bands, the elements after them are one more.
    FASTOPT_NOINLINE void finish(int64_t part) {
        const int64_t parts = parts_of(task_);
        if (has_bands_) end_band();
        double(*const lanes)[kLanes] = has_bands_ ? bands_ : lanes_;
        for (int k = 0; k < kNonFinite; ++k) task_.statistics[k * parts + part] = merge(lanes[k], kPlus);
        task_.statistics[kNonFinite * parts + part] = double(not_finite_);
        restart();
    }

   private:
    void restart() {
        for (auto& lanes : lanes_) clear(lanes, kLanes);
        has_bands_ = false;
        not_finite_ = 0;
    }

    const Task& task_;
    bool has_bands_;
    int64_t not_finite_;
    alignas(64) double lanes_[kNonFinite][kLanes], bands_[kNonFinite][kLanes];
    alignas(64) T before_[kMostStored];
};

}  // namespace
}  // namespace fastopt
