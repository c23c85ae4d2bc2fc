// Vectors that run through all parameters, of which quasi-Newton and conjugate gradient methods are made: one call, as
// the engine passes it to the kernels. Plain data.
#pragma once

#include "common.h"

namespace fastopt {

// Elements of a vector that one worker takes, and whose sums have lanes of their own (cpu/reductions.h): enough for a
// CPU's prefetchers, or, of short vectors, few enough to share out. A sum's shape depends on nothing else.
constexpr int64_t kVectorChunk = 8192, kShortChunk = 2048, kShortVector = 65536;

// Bytes that a GPU's thread takes at a time.
constexpr int64_t kVectorAlignment = 16;

// Rows of a history whose products with a chunk one worker takes.
constexpr int64_t kRowGroup = 16;

// A tensor's elements in a vector, from `first` on, up to the next segment's. A gradient that is None has no data.
struct Segment {
    Array array;
    int64_t first;
    double weight;
};

// What is measured of a gradient g, where a direction d and the gradient before it are given, and y is the difference
// of both gradients: max |g|, sum |g|, g.g, g.d, y.d, y.y, g.y.
enum GradientSum { kLargest, kMagnitudes, kSquares, kSlope, kSlopeChange, kChangeSquares, kChange, kGradientSums };

// And of a direction: max |d|, d.d, g.d.
enum DirectionSum { kLargestStep, kStepSquares, kDescent, kDirectionSums };

// All vectors are of one type, the kernels' T.
struct VectorTask {
    DType type;
    bool aligned;  // every vector begins at a multiple of kVectorAlignment
    int64_t n, chunk, chunks;
    const Segment* segments;
    int64_t segment_count;
    void* out;                                       // gathered from segments, or the combination
    const void *base, *grad, *previous, *direction;  // null where the call has none
    double t;                                        // how far along the direction
    void* const* rows;                               // of the history: all steps, then all changes of the gradient
    int64_t row_count;
    const double* coefficients;  // of the gradient, and of each row
    bool measures;
    double* partials;  // [sum][chunk]; for products with rows [row][gradient, its change][chunk]
    double* sums;      // joined
};

// Kernels run over chunks, `multiply` over chunks and groups of rows, joins over sums.
using VectorKernel = void (*)(const VectorTask&, int64_t begin, int64_t end);

struct VectorKernels {
    VectorKernel gather, scatter, multiply, combine;
    VectorKernel join_gathered, join_multiplied, join_combined;
};

struct VectorTable {
    VectorKernels f32, f64;
};

}  // namespace fastopt
