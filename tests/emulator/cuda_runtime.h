// An emulator of the CUDA runtime, which g++ finds in place of the real header when it compiles .cu files (-x c++). A
// kernel is a function; a launch calls it once for each thread and returns when the grid is done.
//
//     vector_types.h  qualifiers, dim3, uint4, ...
//     host_api.h      what the host calls: errors, devices, launches
//     device_api.h    what a kernel calls: indices, barriers, shuffles, atomics, shared memory
//     block.h         runs the threads of a block (thread.h); a thread that waits keeps its stack (fiber.h)
//     races.h         finds data races, in a build for that
//     emulator.cpp    the runtime itself, and the controls for tests (emulator.py)
//
// It checks more than a GPU does: all threads must reach a barrier, and the same one; all lanes of a mask must reach
// their shuffle; shared memory begins as NaN, and each variable is a separate allocation (AddressSanitizer). The order
// of blocks and threads is a setting: a missing barrier gives a wrong result in some order.
// A thread that spins until another has written hangs, because threads take turns only where they wait.
#pragma once

#include "device_api.h"
#include "host_api.h"
#include "vector_types.h"
