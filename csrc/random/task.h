// One call of dropout, as the engine passes it to the kernels: plain data.
#pragma once

#include "random/mask.h"

namespace fastopt {

constexpr int kMaxMaskDims = 65;  // torch's 64, and one for the two parts of a complex number

// A dense tensor's dimensions in the order of memory, outermost first, and how far a step along each moves in the mask:
// 0 where the dimension shares its mask. Neighbouring dimensions are joined where possible.
struct MaskLayout {
    int ndim;
    int64_t size[kMaxMaskDims];
    int64_t memory[kMaxMaskDims];  // elements of memory per step
    int64_t mask[kMaxMaskDims];    // elements of the mask per step
    // The dimension that the mask runs along, if it does not run along memory; otherwise -1.
    int across;
    int64_t units;  // elements, or tiles of two dimensions; work is divided between them
    int64_t elements_per_unit;
};

// Elements of a tile on the CPU: `kAcross` along the mask times `kAlong` along memory.
constexpr int64_t kAcross = 256;
constexpr int64_t kAlong = 64;

// Sums of columns have one shape: strips of rows, then the strips of a block in order, then the blocks in order.
constexpr int64_t kSumStrip = 16;
constexpr int64_t kSumRows = 128;
constexpr int64_t kSumColumns = 1024;  // columns of a unit of work on the CPU

struct DropoutTask {
    Mask mask;
    const MaskLayout* layout;
    Array out, input, residual, bias;  // no data where there is none
    int64_t rows, columns;             // of the bias: one number per column
    const uint64_t* seed;              // the mask's, if only a device knows it; otherwise null
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
    DropoutKernel blocks;            // the Philox blocks of the counters [begin, end)
};

}  // namespace fastopt
