#include "races.h"

#include <algorithm>

#include "block.h"
#include "place.h"

namespace emulator {

namespace {

thread_local bool runs_a_grid = false;  // other threads may run the host's part of a .cu file meanwhile

constexpr const char* kDoes[] = {"reads", "writes", "changes atomically"};  // by kind

}  // namespace

Races& races() {
    static Races instance;
    return instance;
}

void Races::begin_grid() {
    runs_a_grid = on;
    accesses_.assign(1, {});
    of_turn_.clear();
    pages_.clear();
    page_ = nullptr;
    released_.clear();
    race_.reset();
}

void Races::end_grid() { runs_a_grid = false; }

void Races::begin_block(size_t number, size_t threads) {
    if (!runs_a_grid) return;
    block_ = uint32_t(number);
    threads_.assign(threads, {});
    ++now_;
}

void Races::merge(Clock& into, const Clock& from) {
    for (const auto& [who, time] : from) {
        Time& known = into[who];
        known = std::max(known, time);
    }
}

// All threads know what each knew, and each other's accesses.
void Races::meet_block() {
    if (!runs_a_grid) return;
    const auto all = std::make_shared<Clock>();
    const Clock* last = nullptr;
    for (const Thread& thread : threads_) {
        if (thread.seen && thread.seen.get() != last) merge(*all, *(last = thread.seen.get()));
    }
    all->erase(all->lower_bound({block_, kAll}), all->lower_bound({block_ + 1, kAll}));
    (*all)[{block_, kAll}] = now_++;
    for (Thread& thread : threads_) thread.seen = all;
}

void Races::meet_lanes(unsigned first, unsigned mask) {
    if (!runs_a_grid) return;
    const auto all = std::make_shared<Clock>();
    const Clock* last = nullptr;
    for (unsigned lane = 0; lane < kWarp; ++lane) {
        if (!(mask >> lane & 1)) continue;
        const auto& seen = threads_[first + lane].seen;
        if (seen && seen.get() != last) merge(*all, *(last = seen.get()));
    }
    for (unsigned lane = 0; lane < kWarp; ++lane) {
        if (!(mask >> lane & 1)) continue;
        (*all)[{block_, int(first + lane)}] = now_;
        threads_[first + lane].seen = all;
    }
    ++now_;
}

void Races::fence() {
    if (!runs_a_grid) return;
    Thread& self = threads_[block().current()];
    merge(self.acquired, self.seen ? *self.seen : Clock{});
    self.released = self.acquired;
    self.seen = std::make_shared<Clock>(std::move(self.acquired));
    self.acquired.clear();
    self.released[{block_, int(block().current())}] = now_++;
}

void Races::access(const void* address, size_t bytes, Kind kind, const void* where) {
    if (!runs_a_grid || block().on_stack(address)) return;
    const auto begin = reinterpret_cast<uintptr_t>(address);
    const uint32_t number = number_of(kind, where);
    for (uintptr_t at = begin, left = bytes; left > 0;) {
        Page& page = page_of(at);
        const uintptr_t first = at % kPage, last = std::min(first + left, kPage);
        while ((first | last) % page.bytes_of_cell != 0) page.halve_cells();
        for (uintptr_t i = first / page.bytes_of_cell; i < last / page.bytes_of_cell; ++i) {
            update(page.cells[i], number, address);
        }
        at += last - first;
        left -= last - first;
    }
    if (kind != atomic) return;
    Clock& released = released_[begin];
    merge(threads_[block().current()].acquired, released);
    merge(released, threads_[block().current()].released);
}

uint32_t Races::number_of(Kind kind, const void* where) {
    const unsigned thread = block().current();
    const Access& last = accesses_.back();
    if (last.time != now_ || last.thread != thread) of_turn_.clear();
    uint32_t& number = of_turn_[where];
    if (number == 0) {
        number = uint32_t(accesses_.size());
        accesses_.push_back({now_, where, block_, uint16_t(thread), kind});
    }
    return number;
}

Races::Page& Races::page_of(uintptr_t address) {
    if (!page_ || address / kPage != last_page_) {
        last_page_ = address / kPage;
        page_ = &pages_[last_page_];
    }
    return *page_;
}

void Races::Page::halve_cells() {
    bytes_of_cell /= 2;
    std::vector<Cell> halves(2 * cells.size());
    for (size_t i = 0; i < halves.size(); ++i) halves[i] = cells[i / 2];
    cells = std::move(halves);
}

// Checks an access against the ones before, and remembers it.
void Races::update(Cell& cell, uint32_t number, const void* address) {
    const Access& now = accesses_[number];
    check(cell.write, now, address);
    if (now.kind != read) {
        for (const uint32_t before : cell.reads) check(before, now, address);
    }
    if (now.kind != atomic) {
        for (const uint32_t before : cell.atomics) check(before, now, address);
    }
    if (now.kind == write)
        cell = {number, {}, {}};
    else
        add(now.kind == read ? cell.reads : cell.atomics, number);
}

void Races::add(Last& last, uint32_t number) const {
    const uint32_t before = std::exchange(last[0], number);
    if (before == 0) return;
    const Access &one = accesses_[before], &now = accesses_[number];
    if (one.block != now.block || one.thread / kWarp != now.thread / kWarp) {
        last[2] = before;
    } else if (one.thread != now.thread) {
        last[1] = before;
    }
}

void Races::check(uint32_t number, const Access& now, const void* address) {
    if (number == 0 || race_) return;
    const Access& before = accesses_[number];
    if (is_ordered(before, now)) return;
    const bool shared = block().is_shared(address);
    if (shared && before.block != now.block) return;  // another block's memory, at the same place
    race_ = std::make_unique<Race>(Race{before, now, shared});
}

bool Races::is_ordered(const Access& before, const Access& now) const {
    if (before.block == now.block && before.thread == now.thread) return true;
    const auto& seen = threads_[now.thread].seen;
    if (!seen) return false;
    for (const int who : {kAll, int(before.thread)}) {
        const auto found = seen->find({before.block, who});
        if (found != seen->end() && found->second >= before.time) return true;
    }
    return false;
}

std::string Races::describe(const void* kernel) const {
    if (!race_) return {};
    const auto one = [](const Access& it) {
        return "thread " + std::to_string(it.thread) + " of block " + std::to_string(it.block) + " " + kDoes[it.kind] +
               " at " + place_of(it.where).lines;
    };
    return std::string("a race in ") + (race_->shared ? "shared" : "global") + " memory: " + one(race_->before) + "; " +
           one(race_->now) + "; nothing orders them, in " + place_of(static_cast<const char*>(kernel) + 1).function;
}

}  // namespace emulator

// What g++ -fsanitize=thread calls.

using emulator::Races;

#define CALLED extern "C" __attribute__((visibility("hidden")))
#define ACCESS(bytes, kind, address) \
    emulator::races().access(address, size_t(bytes), Races::kind, __builtin_return_address(0))

#define PLAIN(bytes)                                                                          \
    CALLED void __tsan_read##bytes(void* address) { ACCESS(bytes, read, address); }           \
    CALLED void __tsan_write##bytes(void* address) { ACCESS(bytes, write, address); }         \
    CALLED void __tsan_unaligned_read##bytes(void* address) { ACCESS(bytes, read, address); } \
    CALLED void __tsan_unaligned_write##bytes(void* address) { ACCESS(bytes, write, address); }
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)
CALLED void __tsan_read_range(void* address, size_t bytes) { ACCESS(bytes, read, address); }
CALLED void __tsan_write_range(void* address, size_t bytes) { ACCESS(bytes, write, address); }

// Threads take turns, so these need not be atomic themselves.
#define ATOMIC(bits, T)                                                                                     \
    CALLED T __tsan_atomic##bits##_load(const T* address, int) {                                            \
        ACCESS(bits / 8, atomic, address);                                                                  \
        return *address;                                                                                    \
    }                                                                                                       \
    CALLED T __tsan_atomic##bits##_fetch_add(T* address, T value, int) {                                    \
        ACCESS(bits / 8, atomic, address);                                                                  \
        return std::exchange(*address, T(*address + value));                                                \
    }                                                                                                       \
    CALLED bool __tsan_atomic##bits##_compare_exchange_strong(T* address, T* expected, T value, int, int) { \
        ACCESS(bits / 8, atomic, address);                                                                  \
        const T before = *address;                                                                          \
        if (before == *expected) *address = value;                                                          \
        return std::exchange(*expected, before) == before;                                                  \
    }
ATOMIC(8, uint8_t)
ATOMIC(32, uint32_t)
ATOMIC(64, uint64_t)

CALLED void __tsan_init() { Races::on = true; }
CALLED void __tsan_func_entry(void*) {}
CALLED void __tsan_func_exit() {}
