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
    using Clock = std::map<std::pair<uint32_t, int>, Time>;
    static constexpr int kAll = -1;

    struct Thread {
        std::shared_ptr<const Clock> seen;  // may be null
        Clock released, acquired;           // by the last fence; by atomic accesses that no fence has followed yet
    };

    struct Access {
        Time time;
        const void* where;  // the return address in the kernel
        uint32_t block;
        uint16_t thread;
        Kind kind;
    };

    // The last accesses of a kind: one, the last before it by another lane of its warp, and by another warp. More would
    // hardly tell more: what is ordered without a barrier of the block is ordered within one warp.
    using Last = std::array<uint32_t, 3>;  // places in accesses_; 0: none

    // What is remembered of some bytes, since the last write.
    struct Cell {
        uint32_t write;
        Last reads, atomics;
    };

    // A piece of memory, in cells as large as its smallest access allows.
    static constexpr uintptr_t kPage = 1024;
    struct Page {
        uintptr_t bytes_of_cell = 16;
        std::vector<Cell> cells = std::vector<Cell>(kPage / 16);
        void halve_cells();
    };

    struct Race {
        Access before, now;
        bool shared;
    };

    static void merge(Clock& into, const Clock& from);
    uint32_t number_of(Kind kind, const void* where);
    Page& page_of(uintptr_t address);
    void update(Cell& cell, uint32_t number, const void* address);
    void add(Last& last, uint32_t number) const;
    void check(uint32_t before, const Access& now, const void* address);
    bool is_ordered(const Access& before, const Access& now) const;

    uint32_t block_ = 0;
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
