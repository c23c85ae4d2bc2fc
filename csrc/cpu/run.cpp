#include "run.h"

#include <algorithm>
#include <atomic>
#include <memory>

#include "threads.h"

namespace fastopt {
namespace {

struct Tile {
    const Job* job;
    int64_t begin, end;
};

// A worker's own share of the tiles; padded so that two counters never share a cache line.
struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t end;
};

struct Work {
    const std::vector<Tile>& tiles;
    Share* shares;
    int workers;
};

// Each worker takes its own share first, the same one every step, which is then still in its cache;
// whoever ends early helps the others.
void work(void* context, int worker) {
    const Work& w = *static_cast<Work*>(context);
    for (int turn = 0; turn < w.workers; ++turn) {
        Share& share = w.shares[(worker + turn) % w.workers];
        int64_t i;
        while ((i = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end) {
            const Tile& tile = w.tiles[static_cast<size_t>(i)];
            tile.job->kernel(*tile.job->task, tile.begin, tile.end);
        }
    }
}

}  // namespace

void run(const std::vector<Job>& jobs, int threads) {
    int64_t total = 0;
    for (const Job& job : jobs) total += job.units * job.elements_per_unit;
    const int workers = static_cast<int>(std::clamp<int64_t>(total / kGrain, 1, std::max(threads, 1)));
    if (workers == 1) {
        for (const Job& job : jobs) job.kernel(*job.task, 0, job.units);
        return;
    }

    std::vector<Tile> tiles;
    tiles.reserve(jobs.size() + static_cast<size_t>(total / kTile));
    for (const Job& job : jobs) {
        const int64_t step = std::max<int64_t>(kTile / job.elements_per_unit, 1);
        for (int64_t at = 0; at < job.units; at += step) tiles.push_back({&job, at, std::min(at + step, job.units)});
    }

    // Shares of equally many elements, cut at tiles.
    const auto shares = std::make_unique<Share[]>(static_cast<size_t>(workers));
    int64_t tile = 0, done = 0;
    const int64_t tile_count = static_cast<int64_t>(tiles.size());
    for (int k = 0; k < workers; ++k) {
        Share& share = shares[static_cast<size_t>(k)];
        share.next.store(tile, std::memory_order_relaxed);
        const int64_t until = k + 1 == workers ? total : total / workers * (k + 1);
        while (tile < tile_count && done < until) {
            const Tile& t = tiles[static_cast<size_t>(tile++)];
            done += (t.end - t.begin) * t.job->elements_per_unit;
        }
        share.end = tile;
    }
    Work w{tiles, shares.get(), workers};
    parallel(workers, work, &w);
}

}  // namespace fastopt
