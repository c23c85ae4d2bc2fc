// One call of dropout, as the engine hands it to the kernels: plain data.
#pragma once

#include "random/mask.h"

namespace fastopt {

constexpr int kMaxMaskDims = 65;  // torch's 64, and one for the two parts of a complex number

// A dense tensor's dimensions in the order of memory, outermost first, and how far a step along each
// moves in the mask: 0 where the dimension shares its mask. Neighbours are joined where they can be.
struct MaskLayout {
    int ndim;
    int64_t size[kMaxMaskDims];
    int64_t memory[kMaxMaskDims];  // elements of memory per step
    int64_t mask[kMaxMaskDims];    // elements of the mask per step
    // Where the mask does not run along memory: the dimension it runs along; otherwise -1.
    int across;
    int64_t units;  // work can be divided between them: elements, or tiles of two dimensions
    int64_t elements_per_unit;
};

// Elements of a tile on the CPU: `kAcross` along the mask times `kAlong` along memory.
constexpr int64_t kAcross = 256;
constexpr int64_t kAlong = 64;

// Sums of columns have one shape: strips of rows, the strips of a block in their order, the blocks in theirs.
constexpr int64_t kSumStrip = 16;
constexpr int64_t kSumRows = 128;
constexpr int64_t kSumColumns = 1024;  // of a unit of work on the CPU

struct DropoutTask {
    Mask mask;
    const MaskLayout* layout;
    Array out, input, residual, bias;  // no data where there is none
    int64_t rows, columns;             // of the bias: one number per column
    const uint64_t* seed;              // the mask's, where only a device knows it; otherwise null
    double scalars[kMaxScalars];
    double* column_sums;  // [blocks of rows][columns]
};

using DropoutKernel = void (*)(const DropoutTask&, int64_t begin, int64_t end);

struct DropoutEntry {
    const char* name;
    const char* scalar_names;
    bool residual, bias;
    DropoutKernel f32;  // float32, bfloat16 and float16: arithmetic in float32
    DropoutKernel f64;
};

struct DropoutTable {
    const DropoutEntry* entries;
    int count;
    DropoutKernel sum_f32, sum_f64;  // the gradients of x and of the bias
    DropoutKernel flags, packed;     // the mask itself
    DropoutKernel blocks;            // the blocks of counters [begin, end) that masks are made of
};

}  // namespace fastopt
