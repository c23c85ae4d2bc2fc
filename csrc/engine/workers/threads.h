// The worker threads: those of the OpenMP runtime that torch itself uses, found in the running
// process. Nothing is linked, so a second runtime cannot appear, whatever name torch's copy has.
#pragma once

#include <string>

namespace fastopt {

// Looks the runtime up through the library that uses it (libtorch_cpu). Without one, work stays on
// the calling thread.
void find_openmp(const std::string& libtorch);

// The file that holds the runtime, "" where there is none.
std::string openmp_runtime();

// True in a forked child: the runtime's threads were left behind in the parent, and waiting for
// them would hang, so work stays on the calling thread.
bool forked();

// Calls body(context, worker) on up to `workers` threads, the caller's included, and returns when
// all have ended. Fewer may run: body must share the work out by itself.
using Body = void (*)(void* context, int worker);
void parallel(int workers, Body body, void* context);

}  // namespace fastopt
