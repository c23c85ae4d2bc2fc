// One call of a normalization, as the engine passes it to the kernels: plain data.
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

// A set is what shares one mean and one deviation: a channel of all samples (batch normalization), `group` channels of
// one sample (group and instance normalization), or a row (layer and RMS normalization).
//
// Pairs hold two numbers per set or channel, or per column and chunk: mean and sum of squared deviations, or the sums
// of the gradient and of its products with x - mean.
struct NormTask {
    NormLayout layout;   // by channels; with several `samples`, of one of them
    NormLayout sets;     // the same memory by sets, as the moments take it
    int64_t samples;     // parts of the memory, one after another, whose columns have statistics of their own
    int64_t group;       // channels per set
    int64_t parameters;  // channels that have weights of their own; in planes, channels c and c + parameters share them
    int64_t set_count, channel_count;               // of all samples
    Array input, residual, out;                     // forward; the residual is added after the normalization
    Array summands[2];                              // no data, or the input is their sum, which the kernels write
    Array grad, grad_input, grad_residual;          // backward
    Array grad_sum;                                 // added to the gradient of the input
    Array kept;                                     // a result, if it holds the gradient of z for later
    Array weight, bias, running_mean, running_var;  // no data where there is none
    Array grad_weight, grad_bias;                   // no data where it is not wanted
    double* partials;                               // columns, rows: [chunk][2][column]; planes: [channel][chunk][2]
    void* accumulators;                             // rows: the same in the compute type
    int64_t chunk_rows;  // rows: those of a chunk, which share sums of the parameters' gradients
    int64_t row_sets;    // rows: sets of a row
    int64_t row_repeat;  // rows: neighbours that share a parameter, which the kernels see repeated
    bool rounds_first;   // rows: rounds to a half type before the weight is applied
    double* moments;     // [2][set_count]
    double* sums;        // [2][channel_count]
    double* statistics;  // [2][set_count]: mean, 1 / standard deviation
    void* coefficients;  // in the compute type; columns: [5][repeat]; planes: [repeat][5]; device: [5][channels]
    int64_t sample_partials, sample_coefficients;  // numbers of 8 bytes per sample
    int activation;
    double negative_slope;
    bool streams;            // results are written past the caches
    bool batch;              // normalized by the input's own statistics
    double count;            // elements of a set, if all are in this process
    double* counts;          // [channels], otherwise
    const double* gathered;  // [process][2 * channels + 1]: each one's moments and count
    int64_t processes;
    double momentum, eps;
};

using NormKernel = void (*)(const NormTask&, int64_t begin, int64_t end);

struct NormKernels {
    // Units: (set, chunk) and (channel, chunk) in planes; (chunk, span) in columns.
    NormKernel moments, sums;
    // Units: sets, channels. They join the chunks' results in order.
    NormKernel join_moments, join_sums;
    // Units: sets. Computes the coefficients for the elements.
    NormKernel fill_coefficients;
    // Units: elements, in the order of memory.
    NormKernel apply, gradient;
    // Units: sets in planes, samples in columns. All work on one while it is in the cache.
    NormKernel forward, backward;
};

// Rows have a weight for each element. Weights are in the compute type.
struct RowKernels {
    // Units: (row, chunk). Then `finalize`, whose units are rows, joins the chunks' results.
    NormKernel moments, finalize;
    // Units: blocks of kBlock elements of a row.
    NormKernel apply;
    // Units: rows. All of it.
    NormKernel forward;
    // Units: chunks of rows.
    NormKernel backward;
    // Units: columns. Joins the chunks' sums into the gradients of weight and bias.
    NormKernel join_parameters;
};

struct NormTable {
    const char* const* activations;
    const bool* costly;  // better stored than computed twice
    int activation_count;
    NormKernels planes_f32, planes_f64, columns_f32, columns_f64;
    RowKernels layer_f32, layer_f64, rms_f32, rms_f64;
    NormKernel add_f32, add_f64;  // input = the sum of both summands. Units: elements
};

}  // namespace fastopt
