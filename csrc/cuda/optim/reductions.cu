// Sums over many tensors in the CPU's shape (cpu/reductions.h): a thread is a lane, a warp takes a chunk.
#include <vector>

#include "cuda/join.h"
#include "cuda/memory.h"
#include "cuda/optim/tensors.h"
#include "cuda/warp.h"
#include "math/sums.h"

namespace fastopt::cuda {
namespace {

constexpr int kWarps = 8;

// Arrays: elements, partial results.
template <class Sum, class Format>
__global__ void __launch_bounds__(kWarps* kLanes)
    reduce_chunks(const __grid_constant__ Tensors<2> tensors, double exponent) {
    const BlockSpan span = span_of_block(tensors, kWarps * kSumChunk);
    const int lane = int(threadIdx.x) % kLanes;
    const int64_t begin = chunk_of_warp(span);
    if (begin >= span.end) return;
    const int64_t end = end_of_chunk(span, begin);
    const auto* const elements = static_cast<const typename Format::Storage*>(tensors.arrays[span.tensor][0]);
    const auto term = [exponent](typename Format::Storage x) { return Sum::term(double(Format::load(x)), exponent); };
    double sum = gather_lane(elements + begin, end - begin, lane, kLanes, Sum::start, term, Sum::join);
    sum = merge_lanes(sum, Sum::join);
    if (lane == 0) static_cast<double*>(tensors.arrays[span.tensor][1])[begin / kSumChunk] = sum;
}

constexpr int kJoiners = 512;
constexpr int kStaged = 8 * kJoiners;

template <class Sum>
__global__ void __launch_bounds__(kJoiners)
    join_chunks(const double* partials, int64_t n, double exponent, const float* loss_scale, double known_loss_scale,
                double* norm) {
    FASTOPT_SHARED(double[kStaged], staged);
    const double sum = join_in_block<kJoiners>(partials, n, Sum::start, staged, Sum::join);
    if (threadIdx.x == 0)
        *norm = Sum::norm(sum, exponent) / (loss_scale != nullptr ? double(*loss_scale) : known_loss_scale);
}

struct Kernels {
    void (*reduce[4])(const Tensors<2>, double);  // by DType
    void (*join)(const double*, int64_t, double, const float*, double, double*);
};

#define FASTOPT_KERNELS(name, Sum)                                                                               \
    {{reduce_chunks<Sum, Plain<float>>, reduce_chunks<Sum, Plain<double>>, reduce_chunks<Sum, Narrow<BFloat16>>, \
      reduce_chunks<Sum, Narrow<Float16>>},                                                                      \
     join_chunks<Sum>},
constexpr Kernels kernels[] = {FASTOPT_SUMS(FASTOPT_KERNELS)};

const Array& source(const Task& task) { return task.grad.data != nullptr ? task.grad : task.param; }

}  // namespace

void reduce(const Stream& stream, int reduction, double exponent, const Task* const* tasks, int count) {
    std::vector<const Task*> of_type[4];
    for (int i = 0; i < count; ++i) of_type[int(source(*tasks[i]).type)].push_back(tasks[i]);
    for (int type = 0; type < 4; ++type)
        for_tables<2>(
            of_type[type].data(), static_cast<int>(of_type[type].size()), kWarps * kSumChunk,
            [](Tensors<2>& tensors, int i, const Task& task) {
                tensors.arrays[i][0] = source(task).data;
                tensors.arrays[i][1] = task.partials;
            },
            [&](const Tensors<2>& tensors, int64_t blocks) {
                launch(stream, "sums", kernels[reduction].reduce[type], {blocks, kWarps * kLanes}, tensors, exponent);
            });
}

void join(const Stream& stream, int reduction, double exponent, const double* partials, int64_t n,
          const DeviceInputs& inputs, double known_loss_scale, double* norm) {
    launch(stream, "norm", kernels[reduction].join, {1, kJoiners}, partials, n, exponent, inputs.loss_scale,
           known_loss_scale, norm);
}

}  // namespace fastopt::cuda
