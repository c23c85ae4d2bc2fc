// The worker threads of the OpenMP runtime that torch itself uses, found in the running process. Nothing is linked, so
// no second runtime can appear, whatever the name of torch's copy.
#pragma once

#include <string>

namespace fastopt {

// Finds the runtime through the library that uses it (libtorch_cpu). Without a runtime, work stays on the calling
// thread.
void find_openmp(const std::string& libtorch);

// The path of the runtime's file; "" where there is none.
std::string openmp_runtime();

// True in a forked child: the runtime's threads exist only in the parent, and waiting for them would hang, so work
// stays on the calling thread.
bool forked();

// Calls body(context, worker) on up to `workers` threads, including the caller's, and returns when all have ended.
// Fewer may run: body must share the work out itself.
using Body = void (*)(void* context, int worker);
void parallel(int workers, Body body, void* context);

}  // namespace fastopt
