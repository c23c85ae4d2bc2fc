// Division by a number that the host knows. A GPU has no division instruction, and 64 bits need a function call.
#pragma once

#include <cuda_runtime.h>

#include "common.h"

namespace fastopt::cuda {
namespace {

// Granlund and Montgomery, "Division by invariant integers using multiplication" (PLDI 1994), figure 4.1.
class Divisor {
   public:
    Divisor() = default;
    explicit Divisor(int64_t number) : number_(static_cast<uint64_t>(number)) {  // 1 to 2^62
        __extension__ using Wide = unsigned __int128;
        unsigned bits = 0;
        while (uint64_t{1} << bits < number_) ++bits;
        multiplier_ = static_cast<uint64_t>((static_cast<Wide>((uint64_t{1} << bits) - number_) << 64) / number_) + 1;
        first_shift_ = bits > 0;
        second_shift_ = bits > 0 ? bits - 1 : 0;
    }

    struct Result {
        uint64_t quotient, remainder;
    };
    __device__ __forceinline__ Result divide(uint64_t n) const {
        const uint64_t high = __umul64hi(multiplier_, n);
        const uint64_t quotient = (high + ((n - high) >> first_shift_)) >> second_shift_;
        return {quotient, n - quotient * number_};
    }

    __device__ __forceinline__ int64_t quotient(int64_t n) const { return int64_t(divide(uint64_t(n)).quotient); }

    // Returns the quotient of n, and leaves the remainder in n.
    __device__ __forceinline__ int64_t split(int64_t& n) const {
        const Result result = divide(uint64_t(n));
        n = int64_t(result.remainder);
        return int64_t(result.quotient);
    }

    FASTOPT_HD int64_t number() const { return int64_t(number_); }

   private:
    uint64_t number_, multiplier_;
    uint32_t first_shift_, second_shift_;
};

// The same for 32 bits, where a multiplication is one instruction instead of ten. Divides numbers below kMost; a larger
// divisor counts as kMost, whose quotients are 0 as well.
class SmallDivisor {
   public:
    static constexpr uint32_t kMost = uint32_t{1} << 31;

    SmallDivisor() = default;
    explicit SmallDivisor(int64_t number) : number_(static_cast<uint32_t>(number < kMost ? number : kMost)) {
        uint32_t bits = 0;
        while (uint64_t{1} << bits < number_) ++bits;
        multiplier_ = static_cast<uint32_t>((((uint64_t{1} << bits) - number_) << 32) / number_ + 1);
        first_shift_ = bits > 0;
        second_shift_ = bits > 0 ? bits - 1 : 0;
    }

    __device__ __forceinline__ uint32_t quotient(uint32_t n) const {
        const uint32_t high = __umulhi(multiplier_, n);
        return (high + ((n - high) >> first_shift_)) >> second_shift_;
    }

    FASTOPT_HD uint32_t number() const { return number_; }

   private:
    uint32_t number_, multiplier_, first_shift_, second_shift_;
};

}  // namespace
}  // namespace fastopt::cuda
