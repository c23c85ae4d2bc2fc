#include "engine/workers/threads.h"

#include <dlfcn.h>
#include <pthread.h>

#include <cstdint>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace fastopt {
namespace {

struct Region {
    Body body;
    void* context;
    uint64_t float_mode;
};

// Rounding and flush-to-zero modes are per thread: every worker takes over the caller's modes.
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

// LLVM's ident_t, which describes a place in a program.
struct SourceLocation {
    int32_t reserved;
    int32_t flags;
    int32_t more_reserved[2];
    const char* text;
};
SourceLocation here{0, 2, {0, 0}, ";fastopt;parallel;0;0;;"};  // 2: the caller was compiled for LLVM's entry points

// The functions of the runtime that are called: either GOMP_parallel or the three of LLVM.
struct Runtime {
    int (*omp_get_thread_num)();
    void (*GOMP_parallel)(void (*)(void*), void*, unsigned threads, unsigned flags);
    void (*kmpc_fork_call)(SourceLocation*, int32_t arguments, void (*)(int32_t*, int32_t*, void*), ...);
    void (*kmpc_push_num_threads)(SourceLocation*, int32_t caller, int32_t threads);
    int32_t (*kmpc_global_thread_num)(SourceLocation*);
};
Runtime runtime{};
bool in_forked_child = false;

template <class Function>
bool find(void* library, const char* name, Function*& function) {
    function = reinterpret_cast<Function*>(dlsym(library, name));
    return function != nullptr;
}

// On Linux every runtime exports GCC's entry point; on macOS LLVM's runtime exports only LLVM's.
Runtime look_up(void* library) {
    Runtime r{};
    if (!find(library, "omp_get_thread_num", r.omp_get_thread_num)) return {};
    if (find(library, "GOMP_parallel", r.GOMP_parallel)) return r;
    const bool llvm = find(library, "__kmpc_fork_call", r.kmpc_fork_call) &&
                      find(library, "__kmpc_push_num_threads", r.kmpc_push_num_threads) &&
                      find(library, "__kmpc_global_thread_num", r.kmpc_global_thread_num);
    return llvm ? r : Runtime{};
}

void enter(void* pointer) {
    const Region& region = *static_cast<Region*>(pointer);
    const uint64_t own = float_mode();
    set_float_mode(region.float_mode);
    region.body(region.context, runtime.omp_get_thread_num());
    set_float_mode(own);
}

}  // namespace

void find_openmp(const std::string& libtorch) {
    void* library = dlopen(libtorch.c_str(), RTLD_NOW | RTLD_NOLOAD);
    if (library == nullptr) return;
    runtime = look_up(library);
    dlclose(library);  // torch keeps it loaded
    static const int registered = pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; });
    if (registered != 0) runtime = {};  // a fork could hang: stays on one thread
}

std::string openmp_runtime() {
    Dl_info info;
    if (runtime.omp_get_thread_num == nullptr) return "";
    if (dladdr(reinterpret_cast<void*>(runtime.omp_get_thread_num), &info) == 0) return "";
    return info.dli_fname;
}

bool forked() { return in_forked_child; }

void parallel(int workers, Body body, void* context) {
    if (workers <= 1 || runtime.omp_get_thread_num == nullptr || in_forked_child) {
        body(context, 0);
        return;
    }
    Region region{body, context, float_mode()};
    if (runtime.GOMP_parallel != nullptr) {
        runtime.GOMP_parallel(enter, &region, static_cast<unsigned>(workers), 0);
    } else {
        runtime.kmpc_push_num_threads(&here, runtime.kmpc_global_thread_num(&here), workers);
        runtime.kmpc_fork_call(&here, 1, [](int32_t*, int32_t*, void* pointer) { enter(pointer); }, &region);
    }
}

}  // namespace fastopt
