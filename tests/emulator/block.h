// Runs the threads of a block one after the other on one fiber. A thread that has to wait keeps that fiber, and the
// others continue on a new one, so threads that never wait cost little more than a loop.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "order.h"
#include "races.h"
#include "thread.h"

namespace emulator {

constexpr unsigned kWarp = 32;

// What a block has to do.
struct Work {
    const std::function<void()>& thread;
    size_t dynamic_bytes, shared_limit;  // of shared memory
};

class Block {
   public:
    // Runs all threads. Returns what went wrong, or an empty string.
    std::string run(const Work& work, Order& order);

    bool is_shared(const void* address) const;

    // For the running thread:
    unsigned current() const { return current_; }
    unsigned lane() const { return current_ % kWarp; }
    bool on_stack(const void* address) const { return threads_[current_].fiber->contains(address); }
    void meet(const Meeting& meeting);
    uint64_t exchange(const Meeting& meeting, uint64_t value, unsigned source);
    unsigned vote(const Meeting& meeting, bool yes);
    void* shared_memory(const void* key, size_t bytes, size_t alignment);
    void* dynamic_memory() { return shared_memory(kDynamic, work_->dynamic_bytes, 16); }

   private:
    static constexpr const void* kDynamic = nullptr;  // its key in shared_

    struct Abandoned {};  // thrown in waiting threads after the block has failed

    struct Free {
        std::align_val_t alignment;
        void operator()(void* memory) const { ::operator delete(memory, alignment); }
    };

    void run_warp(unsigned warp);
    Fiber& next();
    static void fiber_main();
    void part_lanes(unsigned warp);
    bool part_block();
    void abandon();

    unsigned warps() const { return unsigned((threads_.size() + kWarp - 1) / kWarp); }
    unsigned lanes(unsigned warp) const { return unsigned(std::min<size_t>(kWarp, threads_.size() - warp * kWarp)); }
    bool can_run(unsigned warp) const;
    std::string describe(size_t thread) const;
    [[noreturn]] void fail(const std::string& why);

    const Work* work_ = nullptr;
    Order* order_ = nullptr;
    std::vector<Thread> threads_;
    std::string failure_;

    std::vector<unsigned> turns_;  // the threads that run until they wait or end
    size_t turn_ = 0;
    unsigned current_ = 0;  // the running thread

    struct Variable {
        std::unique_ptr<void, Free> memory;
        size_t bytes = 0;
    };
    std::map<const void*, Variable> shared_;
    size_t shared_bytes_ = 0;

    Fiber scheduler_;  // the stack that called run()
    std::vector<std::unique_ptr<Fiber>> fibers_;
    std::vector<Fiber*> idle_;
};

inline Block& block() {
    static Block instance;
    return instance;
}

inline std::string Block::run(const Work& work, Order& order) {
    work_ = &work;
    order_ = &order;
    threads_.assign(size_t(block_size.x) * block_size.y * block_size.z, Thread{});
    failure_.clear();
    shared_bytes_ = work.dynamic_bytes;
    std::vector<unsigned> running;
    do {
        running.clear();
        for (unsigned warp = 0; warp < warps(); ++warp) {
            if (can_run(warp)) running.push_back(warp);
        }
        while (!running.empty() && failure_.empty()) {
            const size_t picked = order.pick(running.size());
            const unsigned warp = running[picked];
            run_warp(warp);
            part_lanes(warp);
            if (!can_run(warp)) running.erase(running.begin() + std::ptrdiff_t(picked));
        }
    } while (failure_.empty() && part_block());
    if (!failure_.empty()) abandon();
    shared_.clear();
    return failure_;
}

inline bool Block::can_run(unsigned warp) const {
    const Thread* const first = &threads_[warp * kWarp];
    return std::any_of(first, first + lanes(warp), [](const Thread& lane) { return lane.state == Thread::ready; });
}

// Runs the threads of a warp that can run, each until it waits or ends.
inline void Block::run_warp(unsigned warp) {
    turns_.clear();
    for (unsigned i = warp * kWarp; i < warp * kWarp + lanes(warp); ++i) {
        if (threads_[i].state == Thread::ready) turns_.push_back(i);
    }
    order_->arrange(turns_);
    turn_ = 0;
    scheduler_.go_on_with(next());
}

// The fiber of the next thread in turn, or the scheduler.
inline Fiber& Block::next() {
    if (turn_ == turns_.size() || !failure_.empty()) return scheduler_;
    current_ = turns_[turn_++];
    thread_index.x = current_ % block_size.x;
    thread_index.y = current_ / block_size.x % block_size.y;
    thread_index.z = current_ / block_size.x / block_size.y;
    Thread& thread = threads_[current_];
    if (!thread.fiber) {
        if (idle_.empty()) {
            fibers_.push_back(std::make_unique<Fiber>(fiber_main));
            idle_.push_back(fibers_.back().get());
        }
        thread.fiber = idle_.back();
        idle_.pop_back();
    }
    return *thread.fiber;
}

// Runs a thread, then others that have not begun, on the same stack.
inline void Block::fiber_main() {
    Fiber::begun();
    for (Block& self = block();;) {
        try {
            self.work_->thread();
        } catch (const Abandoned&) {
        }
        Thread& thread = self.threads_[self.current_];
        Fiber& fiber = *thread.fiber;
        thread.state = Thread::ended;
        thread.fiber = nullptr;
        self.idle_.push_back(&fiber);
        Fiber& next = self.next();
        if (&next != &fiber) fiber.go_on_with(next);
    }
}

inline void Block::meet(const Meeting& meeting) {
    if (!meeting.of_block) {
        const unsigned count = lanes(current_ / kWarp);
        if (!(meeting.mask >> lane() & 1)) fail("is not in the mask of " + meeting.describe());
        if (count < kWarp && meeting.mask >> count) fail("waits for lanes beyond the block in " + meeting.describe());
    }
    Thread& self = threads_[current_];
    self.meeting = meeting;
    self.state = Thread::waits;
    self.fiber->go_on_with(next());
    if (!failure_.empty()) throw Abandoned{};
}

inline uint64_t Block::exchange(const Meeting& meeting, uint64_t value, unsigned source) {
    if (!(meeting.mask >> source & 1)) {
        fail("reads from lane " + std::to_string(source) + ", outside of the mask of " + meeting.describe());
    }
    Thread& self = threads_[current_];
    self.given = value;
    self.source = source;
    meet(meeting);
    return self.taken;
}

inline unsigned Block::vote(const Meeting& meeting, bool yes) {
    Thread& self = threads_[current_];
    self.says = yes;
    meet(meeting);
    return self.votes;
}

// Releases the lanes of a mask once all of them wait.
inline void Block::part_lanes(unsigned warp) {
    Thread* const lane = &threads_[warp * kWarp];
    const unsigned count = lanes(warp);
    for (unsigned first = 0; first < count; ++first) {
        if (lane[first].state != Thread::waits || lane[first].meeting.of_block) continue;
        const Meeting meeting = lane[first].meeting;
        unsigned here = 0, votes = 0;
        for (unsigned i = 0; i < count; ++i) {
            if (lane[i].state != Thread::waits || !(lane[i].meeting == meeting)) continue;
            here |= 1u << i;
            votes |= unsigned(lane[i].says) << i;
        }
        if (here != meeting.mask) continue;
        if (meeting.is_barrier) races().meet_lanes(warp * kWarp, here);
        for (unsigned i = 0; i < count; ++i) {
            if (!(here >> i & 1)) continue;
            lane[i].state = Thread::ready;
            lane[i].taken = lane[lane[i].source].given;
            lane[i].votes = votes;
        }
    }
}

// Called when no thread can run: releases the threads if all wait at one barrier. Otherwise the block is done or stuck.
inline bool Block::part_block() {
    const auto waits = [](const Thread& thread) { return thread.state == Thread::waits; };
    const auto found = std::find_if(threads_.begin(), threads_.end(), waits);
    if (found == threads_.end()) return false;
    const size_t waiting = size_t(found - threads_.begin());
    for (size_t i = 0; i < threads_.size(); ++i) {
        const bool in_mask = i / kWarp == waiting / kWarp && (found->meeting.mask >> i % kWarp & 1);
        const bool expected = found->meeting.of_block || in_mask;
        if (!expected || (waits(threads_[i]) && threads_[i].meeting == found->meeting)) continue;
        failure_ = describe(waiting) + ", but " + describe(i);
        return false;
    }
    races().meet_block();
    for (Thread& thread : threads_) thread.state = Thread::ready;
    return true;
}

// Unwinds the stacks of waiting threads.
inline void Block::abandon() {
    for (size_t i = 0; i < threads_.size(); ++i) {
        if (!threads_[i].fiber) continue;
        current_ = unsigned(i);
        scheduler_.go_on_with(*threads_[i].fiber);
    }
}

inline std::string Block::describe(size_t thread) const {
    const Thread& it = threads_[thread];
    return "thread " + std::to_string(thread) +
           (it.state == Thread::ended ? " has ended" : " waits in " + it.meeting.describe());
}

// Ends the running thread, and with it the grid.
inline void Block::fail(const std::string& why) {
    failure_ = "thread " + std::to_string(current_) + " " + why;
    throw Abandoned{};
}

// Allocates memory of the block, or returns what already exists for this key.
inline void* Block::shared_memory(const void* key, size_t bytes, size_t alignment) {
    auto& [memory, allocated] = shared_[key];
    if (!memory) {
        allocated = bytes;
        if (key != kDynamic) shared_bytes_ += bytes;
        if (shared_bytes_ > work_->shared_limit) {
            fail("needs " + std::to_string(shared_bytes_) + " bytes of shared memory in all");
        }
        const auto aligned = std::align_val_t(std::max<size_t>(alignment, 16));
        memory = {::operator new(bytes, aligned), Free{aligned}};
        std::memset(memory.get(), 0xFF, bytes);
    }
    return memory.get();
}

inline bool Block::is_shared(const void* address) const {
    return std::any_of(shared_.begin(), shared_.end(), [=](const auto& of_key) {
        const char* const begin = static_cast<const char*>(of_key.second.memory.get());
        return address >= begin && address < begin + of_key.second.bytes;
    });
}

}  // namespace emulator
