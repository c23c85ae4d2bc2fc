// Finds data races: two threads touch the same byte, one of them writes, one of the accesses is plain, and nothing
// orders the two. g++ -fsanitize=thread makes a kernel call a function at each access; races.cpp has these functions.
//
// Ordered are: a thread's own accesses; what is before and after __syncthreads, or __syncwarp for the lanes of its
// mask; and what is before a fence and an atomic access, and after an atomic access to the same number and a fence.
// Shuffles and votes order nothing, as CUDA's documentation says.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace emulator {

class Races {
   public:
    enum Kind : uint8_t { read, write, atomic };

    static inline bool on = false;  // whether kernels call the functions

    // Until end_grid, the calling thread's accesses count.
    void begin_grid();
    void end_grid();
    void begin_block(size_t number, size_t threads);
    void meet_block();
    void meet_lanes(unsigned first, unsigned mask);  // `first`: the warp's first thread

    // For the running thread:
    void fence();
    void access(const void* address, size_t bytes, Kind kind, const void* where);

    // The grid's first race, or an empty string.
    std::string describe(const void* kernel) const;

   private:
    using Time = uint64_t;  // advances wherever threads are ordered

    // Whose accesses are ordered before those of the clock's owner, and up to when: a thread of a block, or kAll.
    using Clock = std::map<std::pair<size_t, int>, Time>;
    static constexpr int kAll = -1;

    struct Thread {
        std::shared_ptr<const Clock> seen;  // may be null
        Clock released, acquired;           // by the last fence; by atomic accesses that no fence has followed yet
    };

    struct Access {
        size_t block;
        unsigned thread;
        Kind kind;
        Time time;
        const void* where;  // the return address in the kernel
    };

    // The last accesses of a kind: one, the last before it by another lane of its warp, and by another warp. Two of
    // different warps suffice: a third thread is not ordered with one of them, unless it is with all.
    using Last = std::array<uint32_t, 3>;  // places in accesses_; 0: none

    // What is remembered of a byte, since the last write.
    struct Cell {
        uint32_t write;
        Last reads, atomics;
    };
    static constexpr uintptr_t kPage = 1024;
    using Page = std::array<Cell, kPage>;

    struct Race {
        Access before, now;
        bool shared;
    };

    static void merge(Clock& into, const Clock& from);
    void share(unsigned first, unsigned count, unsigned mask, Clock&& clock);
    uint32_t number_of(Kind kind, const void* where);
    Cell& cell(uintptr_t address);
    void update(Cell& cell, uint32_t number, uintptr_t address);
    void add(Last& last, uint32_t number) const;
    void check(uint32_t before, const Access& now, uintptr_t address);
    bool is_ordered(const Access& before, const Access& now) const;

    size_t block_ = 0;
    std::vector<Thread> threads_;
    Time now_ = 1;
    std::unordered_map<uintptr_t, Clock> released_;  // by atomic accesses to an address

    std::vector<Access> accesses_;
    std::unordered_map<const void*, uint32_t> of_turn_;  // of the last thread, while it was ordered with no other
    std::unordered_map<uintptr_t, Page> pages_;
    uintptr_t last_page_ = 0;
    Page* page_ = nullptr;

    std::unique_ptr<Race> race_;
};

Races& races();

}  // namespace emulator
