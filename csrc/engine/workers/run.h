// Runs a kernel over many tensors: one parallel region over the tiles of all of them.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "common.h"
#include "cpu/machine.h"
#include "engine/workers/threads.h"

namespace fastopt {

// One kernel over all units of one task.
template <class Task>
struct Job {
    void (*kernel)(const Task&, int64_t begin, int64_t end);
    const Task* task;
    int64_t units;
    int64_t elements_per_unit;
};

namespace detail {

template <class Task>
struct Tile {
    const Job<Task>* job;
    int64_t begin, end;
};

// Prefetches the first lines of a task during the one before, because a step over many small tensors would wait for
// them. Tasks of other kinds are too few for that.
template <class Task>
void ask_for(const Job<Task>&) {}

inline void ask_for(const Array& array) {
    constexpr int64_t kLines = 8;  // then the CPU's own prefetchers take over
    if (array.data == nullptr) return;
    for (int64_t k = 0; k < kLines; ++k) __builtin_prefetch(static_cast<const char*>(array.data) + 64 * k);
}

inline void ask_for(const Job<Task>& job) {
    const Task& task = *job.task;
    ask_for(task.param);
    ask_for(task.grad);
    for (const Array& state : task.states) ask_for(state);
}

// A worker's share of the tiles, padded so that two counters never share a cache line.
struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t begin, end;
};

// Kept by the calling thread between steps, so that a step allocates nothing.
template <class Task>
struct Work {
    std::vector<Tile<Task>> tiles;
    std::unique_ptr<Share[]> shares;
    int workers = 0;
    int places = 0;  // size of `shares`
    bool backwards = false;

    void prepare(int for_workers) {
        tiles.clear();
        workers = for_workers;
        if (places >= workers) return;
        shares = std::make_unique<Share[]>(static_cast<size_t>(workers));
        places = workers;
    }
};

// Each worker takes its share first, which is the same in every step and so may still be in its cache; a worker that
// ends early helps the others.
template <class Task>
void work(void* context, int worker) {
    const Work<Task>& w = *static_cast<const Work<Task>*>(context);
    for (int turn = 0; turn < w.workers; ++turn) {
        Share& share = w.shares[static_cast<size_t>((worker + turn) % w.workers)];
        int64_t i;
        const auto tile_of = [&](int64_t k) -> const Tile<Task>& {
            return w.tiles[static_cast<size_t>(w.backwards ? share.begin + share.end - 1 - k : k)];
        };
        while ((i = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end) {
            const Tile<Task>& tile = tile_of(i);
            if (i + 1 < share.end && tile.job != tile_of(i + 1).job) ask_for(*tile_of(i + 1).job);
            tile.job->kernel(*tile.job->task, tile.begin, tile.end);
        }
    }
}

}  // namespace detail

template <class Task>
int64_t elements(const std::vector<Job<Task>>& jobs) {
    int64_t total = 0;
    for (const Job<Task>& job : jobs) total += job.units * job.elements_per_unit;
    return total;
}

// A backwards pass begins where the pass before it ended: what the caches hold of that is still there.
enum class Order { forwards, backwards };

template <class Task>
void run(const std::vector<Job<Task>>& jobs, int threads, Order order = Order::forwards) {
    const int64_t total = elements(jobs);
    const int workers =
        static_cast<int>(std::clamp<int64_t>(total / std::max<int64_t>(machine.grain, 1), 1, std::max(threads, 1)));
    if (workers == 1 && order == Order::forwards) {
        for (size_t i = 0; i < jobs.size(); ++i) {
            if (i + 1 < jobs.size()) detail::ask_for(jobs[i + 1]);
            jobs[i].kernel(*jobs[i].task, 0, jobs[i].units);
        }
        return;
    }

    static thread_local detail::Work<Task> w;
    w.prepare(workers);
    w.backwards = order == Order::backwards;
    std::vector<detail::Tile<Task>>& tiles = w.tiles;
    tiles.reserve(jobs.size() + static_cast<size_t>(total / kTile));
    for (const Job<Task>& job : jobs) {
        const int64_t step = std::max<int64_t>(kTile / job.elements_per_unit, 1);
        for (int64_t at = 0; at < job.units; at += step) tiles.push_back({&job, at, std::min(at + step, job.units)});
    }

    // Shares have about the same number of elements, and consist of whole tiles.
    int64_t tile = 0, done = 0;
    const int64_t tile_count = static_cast<int64_t>(tiles.size());
    for (int k = 0; k < workers; ++k) {
        detail::Share& share = w.shares[static_cast<size_t>(k)];
        share.next.store(tile, std::memory_order_relaxed);
        share.begin = tile;
        const int64_t until = k + 1 == workers ? total : total / workers * (k + 1);
        while (tile < tile_count && done < until) {
            const detail::Tile<Task>& t = tiles[static_cast<size_t>(tile++)];
            done += (t.end - t.begin) * t.job->elements_per_unit;
        }
        share.end = tile;
    }
    parallel(workers, detail::work<Task>, &w);
}

}  // namespace fastopt
