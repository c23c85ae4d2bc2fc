// Objects of one step: their addresses stay valid during it, and the next step reuses their memory.
#pragma once

#include <cstddef>
#include <deque>

namespace fastopt {

template <class T>
class Pool {
   public:
    T& add(const T& item) {
        if (used_ == items_.size())
            items_.push_back(item);
        else
            items_[used_] = item;
        return items_[used_++];
    }

    void clear() { used_ = 0; }
    size_t size() const { return used_; }
    auto begin() { return items_.begin(); }
    auto end() { return items_.begin() + static_cast<std::ptrdiff_t>(used_); }

   private:
    std::deque<T> items_;
    size_t used_ = 0;
};

}  // namespace fastopt
