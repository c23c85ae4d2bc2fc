// One call of batch normalization, as the engine hands it to the kernels: plain data.
#pragma once

#include "common.h"

namespace fastopt {

// A dense tensor as [outer][channels][inner], whatever its dimensions are. The shape of all sums depends on this alone.
//
// Planes (long inner): the elements of a channel are pieces that fit into L1: parts of a segment of `inner` elements,
// or several segments; the elements of short ones are taken in the order of the memory. Columns (short inner,
// channels-last): rows of `columns` elements, several periods of channels * inner.
struct NormLayout {
    int64_t outer, channels, inner, total;
    bool planes;

    int64_t pieces;                                  // of a channel
    int64_t pieces_per_segment, segments_per_piece;  // one of them is 1
    int64_t piece, longer;  // elements of a segment's part; of the first `longer` parts, 32 more

    int64_t columns, rows, rest;  // rest: elements behind the last full row

    int64_t chunk, chunks;  // pieces or rows whose sums are taken by one worker, and their number

    bool by_channel;  // a channel's elements may follow its sums at once, while it is in the cache

    // Of coefficients of each kind: columns: for each element, until they repeat, after whole periods; planes: for each
    // channel.
    int64_t repeat;
};

// Pieces or rows of a flush block: what float32 lanes take, at most 128 terms each, before they are emptied into
// float64. Blocks know nothing of each other. A block's squares are taken about the mean of its first rows (planes: of
// 32 lanes).
constexpr int64_t kFlushPieces = 4;
constexpr int64_t kFlushRows = 128;
constexpr int64_t kShiftRows = 8;

constexpr int64_t kChunk = 65536;  // elements of a chunk, about
constexpr int64_t kSpan = 1024;    // columns that are summed side by side
constexpr int64_t kPlane = 16;     // from this `inner` on a tensor is taken as planes

// Pairs of numbers per channel or per column and chunk: [mean][sum of squared deviations], or the sums of the gradient
// and of its products with x - mean.
struct NormTask {
    NormLayout layout;
    Array input, residual, out;                     // forward
    Array grad, grad_input, grad_residual;          // backward
    Array kept;                                     // one of the last two, in which z's gradient waits for its sums
    Array weight, bias, running_mean, running_var;  // no data where there is none
    Array grad_weight, grad_bias;                   // of the weight and the bias, likewise
    double* partials;                               // [chunk][2][column], or [channel][chunk][2]
    double* pairs;                                  // [2][channels]
    double* statistics;                             // [2][channels]: mean, 1 / standard deviation
    void* coefficients;  // in the compute type; columns: [5][repeat]; planes: [repeat][5]; device: [5][channels]
    int activation;
    double negative_slope;
    bool streams;            // results go past the caches
    bool batch;              // normalized by the batch's own statistics
    double count;            // elements of a channel, where they are all in this process
    double* counts;          // [channels], where they are not
    const double* gathered;  // [process][2 * channels + 1]: moments of each, and count
    int64_t processes;
    double momentum, eps;
};

using NormKernel = void (*)(const NormTask&, int64_t begin, int64_t end);

struct NormKernels {
    // Units: (channel, chunk) of planes; (chunk, span of columns).
    NormKernel moments, sums;
    // Units: channels. What was gathered is joined in order.
    NormKernel join_moments, join_sums;
    // Units: channels. Their coefficients, which the elements take.
    NormKernel fill_coefficients;
    // Units: elements, in the order of the memory.
    NormKernel apply, gradient;
    // Units: channels. All of it, while a channel is in the cache; null where elements are never taken so.
    NormKernel forward, backward;
};

struct NormTable {
    const char* const* activations;
    const bool* costly;  // better kept than computed twice
    int activation_count;
    NormKernels planes_f32, planes_f64, columns_f32, columns_f64;
};

}  // namespace fastopt
