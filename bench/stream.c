// The speed of memory: threads walk through the arrays of a step, read, update and write as much as the step does, and
// compute next to nothing. CPUs and sizes differ in which way of walking is fastest; the caller tries all of them.
#define _GNU_SOURCE
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

enum { READ, UPDATE, WRITE };
enum { ASKS = 1, STREAMS = 2, LONG = 4 };  // ways: prefetch, write past the caches, take long turns at each array
enum { CHUNK = 1024, LONG_CHUNK = 16384, AHEAD = 8192, LINE = 64, HUGE_PAGE = 2 << 20, SPINS = 1000 };

typedef struct {
    char **base;  // of an array, which may be allocated anew at each step
    size_t offset, bytes;
    size_t kind;
} Part;

typedef struct {
    const Part *parts;
    size_t count;
} Walk;

typedef struct {
    const Walk *walks;
    size_t count;
} Pass;

typedef struct {
    char **base;
    size_t bytes;
} Fresh;

// A barrier for all threads.
typedef struct {
    _Atomic size_t arrived, round;
} Meeting;

typedef struct {
    const Pass *passes;  // all of thread 0, then all of thread 1, ...
    size_t pass_count;
    const Fresh *fresh;
    size_t fresh_count;
    size_t threads, way;
    double seconds;  // of all steps, from the moment when all threads have arrived
    Meeting meeting;
} Plan;

static void meet(Plan *plan) {
    Meeting *m = &plan->meeting;
    if (plan->threads == 1) return;
    const size_t round = atomic_load(&m->round);
    if (atomic_fetch_add(&m->arrived, 1) + 1 == plan->threads) {
        atomic_store(&m->arrived, 0);
        atomic_fetch_add(&m->round, 1);
        return;
    }
    for (size_t spins = 0; atomic_load(&m->round) == round; ++spins)
        if (spins > SPINS) sched_yield();
}

// Allocates as a step does that returns new tensors, in large pages where the system has them.
static void take(const Fresh *fresh) {
    void *memory = NULL;
    if (posix_memalign(&memory, LINE, fresh->bytes) != 0) abort();
    const uintptr_t begin = ((uintptr_t)memory + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    const uintptr_t end = ((uintptr_t)memory + fresh->bytes) / HUGE_PAGE * HUGE_PAGE;
#ifdef MADV_HUGEPAGE
    if (begin < end) madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#endif
    *fresh->base = memory;
}

// Integers: no value is slow, and sums may be joined in any order. Hardware prefetchers stop at the end of a page.
static uint64_t touch(char *memory, size_t bytes, size_t kind, size_t way) {
    uint64_t *restrict words = (uint64_t *)memory;
    const size_t n = bytes / sizeof *words;
    uint64_t sum = 0;
#ifdef __SSE2__
    if (kind == WRITE && way & STREAMS) {
        size_t i = 0;
#ifdef __AVX512F__  // arrays and chunks begin at a cache line
        for (; i + LINE / sizeof *words <= n; i += LINE / sizeof *words)
            _mm512_stream_si512((void *)(words + i), _mm512_set1_epi64(1));
#endif
        for (; i < n; ++i) _mm_stream_si64((long long *)words + i, 1);
        return sum;
    }
#endif
    if (kind == WRITE) {
        memset(memory, 1, bytes);
        return sum;
    }
    if (way & ASKS)
        for (size_t at = 0; at < bytes; at += LINE) __builtin_prefetch(memory + AHEAD + at);
    if (kind == READ)
        for (size_t i = 0; i < n; ++i) sum += words[i];
    else
        for (size_t i = 0; i < n; ++i) words[i] += 1;
    return sum;
}

// Goes through all arrays together: a chunk of each, then the next chunks. Chunk sizes are proportional to array sizes.
static uint64_t walk(const Walk *w, size_t way) {
    size_t longest = 0;
    for (size_t k = 0; k < w->count; ++k) longest = w->parts[k].bytes > longest ? w->parts[k].bytes : longest;
    const size_t chunk = way & LONG ? LONG_CHUNK : CHUNK;
    const size_t chunks = (longest + chunk - 1) / chunk;
    uint64_t sum = 0;
    for (size_t c = 0; c < chunks; ++c)
        for (size_t k = 0; k < w->count; ++k) {
            const Part *part = &w->parts[k];
            const size_t lines = part->bytes / LINE;
            const size_t begin = lines * c / chunks * LINE;
            const size_t end = c + 1 == chunks ? part->bytes : lines * (c + 1) / chunks * LINE;
            sum += touch(*part->base + part->offset + begin, end - begin, part->kind, way);
        }
    return sum;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// The part of one thread in `count` steps.
uint64_t stream(Plan *plan, size_t thread, size_t count) {
    uint64_t sum = 0;
    meet(plan);
    const double start = now();
    for (; count; --count) {
        if (thread == 0)
            for (size_t k = 0; k < plan->fresh_count; ++k) take(&plan->fresh[k]);
        if (plan->fresh_count) meet(plan);
        for (size_t p = 0; p < plan->pass_count; ++p) {
            const Pass *pass = &plan->passes[thread * plan->pass_count + p];
            for (size_t w = 0; w < pass->count; ++w) sum += walk(&pass->walks[w], plan->way);
            if (plan->fresh_count || plan->pass_count > 1) meet(plan);
        }
        if (thread == 0)
            for (size_t k = 0; k < plan->fresh_count; ++k) free(*plan->fresh[k].base);
    }
    meet(plan);
    if (thread == 0) plan->seconds = now() - start;
    return sum;
}
