// An emulator of the CUDA runtime, found in place of the real header where g++ compiles .cu files (-x c++). A kernel
// is a function, a launch calls it once for each thread and returns when the grid is done.
//
//     vector_types.h  qualifiers, dim3, uint4, ...
//     host_api.h      what the host calls: errors, devices, launches
//     device_api.h    what a kernel calls: indices, barriers, shuffles, atomics, shared memory
//     block.h         how the threads of a block run; a thread that waits keeps its stack (fiber.h)
//     emulator.cpp    the runtime itself, and the controls of the tests (emulator.py)
//
// More is checked than a GPU would: all threads have to come to a barrier, and to the same one; all lanes of a mask
// to their shuffle; shared memory begins as NaN, each variable an allocation of its own (AddressSanitizer). The order
// of blocks and threads is a setting: a barrier that is missing gives a wrong result in one order or another.
// A thread that spins until another has written hangs: threads only take turns where they wait.
#pragma once

#include "device_api.h"
#include "host_api.h"
#include "vector_types.h"
