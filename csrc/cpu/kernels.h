// The tables of the compiled ISAs, and the one in use.
#pragma once

#include "common.h"

// One function per ISA; extern "C" keeps the names independent of the compiler's mangling.
extern "C" {
const fastopt::KernelTable* fastopt_kernels_baseline();
const fastopt::KernelTable* fastopt_kernels_avx2();
const fastopt::KernelTable* fastopt_kernels_avx512();
}
