// Division by a number that is known before the launch: a multiplication, where it can be one.
#pragma once

#include "../common.h"

namespace fastopt {
namespace {

class Divider {
   public:
    // For n < 2^31: n * ceil(2^(31 + s) / d) / 2^(31 + s), where 2^s >= d; the error stays below 1 / d.
    explicit Divider(int64_t divisor) : divisor_(divisor) {
        while (shift_ < 62 && (int64_t{1} << (shift_ - 31)) < divisor) ++shift_;
        if (divisor < kSmall) multiplier_ = static_cast<uint32_t>(((uint64_t{1} << shift_) + divisor - 1) / divisor);
    }

    FASTOPT_HD int64_t quotient(int64_t n) const {
        return n < kSmall ? int64_t(uint64_t(n) * multiplier_ >> shift_) : n / divisor_;
    }

    // Of n; n becomes what is left.
    FASTOPT_HD int64_t split(int64_t& n) const {
        const int64_t quotient_of_n = quotient(n);
        n -= quotient_of_n * divisor_;
        return quotient_of_n;
    }

    FASTOPT_HD int64_t divisor() const { return divisor_; }

   private:
    static constexpr int64_t kSmall = int64_t{1} << 31;

    int64_t divisor_;
    uint32_t multiplier_ = 0;  // n < 2^31 <= d: the quotient is 0
    int shift_ = 31;
};

}  // namespace
}  // namespace fastopt
