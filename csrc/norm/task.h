// One call of batch normalization, as the engine passes it to the kernels: plain data.
#pragma once

#include "common.h"

namespace fastopt {

// A dense tensor as [outer][channels][inner], whatever its dimensions are. The shape of all sums depends on this alone.
//
// Planes (long inner): a channel's elements form pieces that fit into L1, which are parts of a segment of `inner`
// elements, or several segments; elements of short segments are computed in the order of memory. Columns (short inner,
// channels-last): rows of `columns` elements, which are several periods of channels * inner.
struct NormLayout {
    int64_t outer, channels, inner, total;
    bool planes;

    int64_t pieces;                                  // per channel
    int64_t pieces_per_segment, segments_per_piece;  // one of the two is 1
    int64_t piece, longer;  // elements of a segment's part; the first `longer` parts have 32 more

    int64_t columns, rows, rest;  // rest: elements after the last full row

    int64_t chunk, chunks;  // pieces or rows that one worker sums, and the number of chunks

    bool by_channel;  // a channel's elements may directly follow its sums, while it is in the cache

    // The number of coefficients of each kind. Columns: one per element of whole periods, after which they repeat;
    // planes: one per channel.
    int64_t repeat;
};

// Pieces or rows of a flush block. Lanes of float32 add up at most 128 terms each before they are emptied into float64.
// Flush blocks are independent. Squares are taken about the mean of a flush block's first rows (of 32 lanes in planes).
constexpr int64_t kFlushPieces = 4;
constexpr int64_t kFlushRows = 128;
constexpr int64_t kShiftRows = 8;

constexpr int64_t kChunk = 65536;  // approximate number of elements of a chunk
constexpr int64_t kSpan = 1024;    // columns that are summed together
constexpr int64_t kPlane = 16;     // the least `inner` of planes

// Pairs hold two numbers per channel, or per column and chunk: mean and sum of squared deviations, or the sums of the
// gradient and of its products with x - mean.
struct NormTask {
    NormLayout layout;
    Array input, residual, out;                     // forward
    Array grad, grad_input, grad_residual;          // backward
    Array kept;                                     // one of the last two, if it holds the gradient of z for later
    Array weight, bias, running_mean, running_var;  // no data where there is none
    Array grad_weight, grad_bias;                   // no data where it is not wanted
    double* partials;                               // [chunk][2][column], or [channel][chunk][2]
    double* pairs;                                  // [2][channels]
    double* statistics;                             // [2][channels]: mean, 1 / standard deviation
    void* coefficients;  // in the compute type; columns: [5][repeat]; planes: [repeat][5]; device: [5][channels]
    int activation;
    double negative_slope;
    bool streams;            // results are written past the caches
    bool batch;              // normalized by the batch's own statistics
    double count;            // elements of a channel, if all are in this process
    double* counts;          // [channels], otherwise
    const double* gathered;  // [process][2 * channels + 1]: each one's moments and count
    int64_t processes;
    double momentum, eps;
};

using NormKernel = void (*)(const NormTask&, int64_t begin, int64_t end);

struct NormKernels {
    // Units: (channel, chunk) in planes; (chunk, span) in columns.
    NormKernel moments, sums;
    // Units: channels. They join the chunks' results in order.
    NormKernel join_moments, join_sums;
    // Units: channels. Computes the coefficients for the elements.
    NormKernel fill_coefficients;
    // Units: elements, in the order of memory.
    NormKernel apply, gradient;
    // Units: channels. All work on a channel while it is in the cache; null where that is never done.
    NormKernel forward, backward;
};

struct NormTable {
    const char* const* activations;
    const bool* costly;  // better stored than computed twice
    int activation_count;
    NormKernels planes_f32, planes_f64, columns_f32, columns_f64;
};

}  // namespace fastopt
