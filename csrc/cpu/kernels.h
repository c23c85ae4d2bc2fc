// The tables of the compiled ISA files and the one in use.
#pragma once

#include "common.h"

// One per ISA file; extern "C" so that a name never depends on what a compiler mangles.
extern "C" {
const fastopt::KernelTable* fastopt_kernels_baseline();
const fastopt::KernelTable* fastopt_kernels_avx2();
const fastopt::KernelTable* fastopt_kernels_avx512();
}
