#include "threads.h"

#include <dlfcn.h>
#include <pthread.h>

#include <cstdint>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace fastopt {
namespace {

// GCC's OpenMP entry points; LLVM's and Intel's runtimes export them too on Linux.
using GompParallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);
using ThreadNumber = int (*)();

GompParallel gomp_parallel = nullptr;
ThreadNumber thread_number = nullptr;
bool in_forked_child = false;

struct Region {
    Body body;
    void* context;
    uint64_t float_mode;
};

// Rounding and flush-to-zero are per-thread state: every worker computes as the caller would.
uint64_t float_mode() {
#if defined(__SSE2__)
    return _mm_getcsr();
#elif defined(__aarch64__)
    uint64_t mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
#else
    return 0;
#endif
}

void set_float_mode([[maybe_unused]] uint64_t mode) {
#if defined(__SSE2__)
    _mm_setcsr(static_cast<unsigned>(mode));
#elif defined(__aarch64__)
    asm volatile("msr fpcr, %0" : : "r"(mode));
#endif
}

void enter(void* pointer) {
    const Region& region = *static_cast<Region*>(pointer);
    const uint64_t own = float_mode();
    set_float_mode(region.float_mode);
    region.body(region.context, thread_number());
    set_float_mode(own);
}

}  // namespace

void find_openmp(const std::string& libtorch) {
    void* library = dlopen(libtorch.c_str(), RTLD_NOW | RTLD_NOLOAD);
    if (library == nullptr) return;
    gomp_parallel = reinterpret_cast<GompParallel>(dlsym(library, "GOMP_parallel"));
    thread_number = reinterpret_cast<ThreadNumber>(dlsym(library, "omp_get_thread_num"));
    dlclose(library);  // torch keeps it loaded
    if (thread_number == nullptr) gomp_parallel = nullptr;
    static const int registered = pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; });
    if (registered != 0) gomp_parallel = nullptr;  // without it a fork could hang: stay on one thread
}

std::string openmp_runtime() {
    Dl_info info;
    if (gomp_parallel == nullptr || dladdr(reinterpret_cast<void*>(gomp_parallel), &info) == 0) return "";
    return info.dli_fname;
}

bool forked() { return in_forked_child; }

void parallel(int workers, Body body, void* context) {
    if (workers <= 1 || gomp_parallel == nullptr || in_forked_child) {
        body(context, 0);
        return;
    }
    Region region{body, context, float_mode()};
    gomp_parallel(enter, &region, static_cast<unsigned>(workers), 0);
}

}  // namespace fastopt
