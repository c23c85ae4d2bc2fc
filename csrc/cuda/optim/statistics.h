// What a monitored step leaves of each part of a tensor (Statistic in common.h): the twin of cpu/optim/statistics.h. A
// thread is one of the 32 lanes.
#pragma once

#include "cuda/memory.h"
#include "cuda/warp.h"

namespace fastopt::cuda {
namespace {

template <class T>
class Statistics {
   public:
    // Call both for a lane's elements in their order: with the gradient as it is in its tensor, and with the parameter
    // as the step found and left it. Counting every element costs less than asking whether a square was not finite.
    __device__ __forceinline__ void add_gradient(T grad) {
        add(kGradSquares, grad);
        not_finite_ += !(grad - grad == T(0));
    }
    __device__ __forceinline__ void add_movement(T before, T now) {
        add(kParamSquares, now);
        add(kUpdateSquares, now - before);
    }

    // Writes the sums of a part to `place`, which the tensor's `parts` have for each statistic. `sum_of` gives a part's
    // sum of a statistic to the thread where `writes` is true; all threads that it joins must call this.
    template <class SumOf>
    __device__ __forceinline__ void leave(double* place, int64_t parts, bool writes, SumOf sum_of) const {
        FASTOPT_UNROLL
        for (int k = 0; k < kStatistics; ++k) {
            const double sum = sum_of(k, k < kNonFinite ? lanes_[k % kNonFinite] : double(not_finite_));
            if (writes) place[k * parts] = sum;
        }
    }

   private:
    __device__ __forceinline__ void add(Statistic of, T value) {
        lanes_[of] = Squares::join(lanes_[of], Squares::term(double(value), 0));
    }

    double lanes_[kNonFinite] = {};
    int not_finite_ = 0;
};

}  // namespace
}  // namespace fastopt::cuda
