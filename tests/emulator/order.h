// The order in which blocks, warps and threads run. Hardware leaves it open; a test chooses it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace emulator {

class Order {
   public:
    enum Kind { forward, reverse, shuffled };

    Order() = default;
    Order(Kind kind, uint64_t seed) : kind_(kind), random_(seed) {}

    size_t pick(size_t count) {
        if (kind_ == shuffled) return size_t(random_() % count);
        return kind_ == forward ? 0 : count - 1;
    }

    template <class T>
    void arrange(std::vector<T>& of) {
        if (kind_ == reverse) std::reverse(of.begin(), of.end());
        if (kind_ == shuffled) {
            for (size_t left = of.size(); left > 1; --left) std::swap(of[left - 1], of[pick(left)]);
        }
    }

   private:
    Kind kind_ = forward;
    std::mt19937_64 random_;
};

}  // namespace emulator
