// Moments and sums of planes: a block takes a chunk, a warp takes a flush block. Lane l has the elements l, l + 32, ...
// of every piece, like the CPU's lanes.
//
// Bytes per element, float32: 4 for moments, 8 for sums (12 with a residual, 4 more where the gradient of z is stored).
#include "cuda/norm/staged.h"

namespace fastopt::cuda {
namespace {

constexpr int kFlushes = int(kChunk / kBlock / kFlushPieces);  // per chunk
constexpr int kWarps = kFlushes < 8 ? kFlushes : 8;

// Loads in flight per thread for moments; half as many for sums, which have several operands.
constexpr int kLoads = 8;

// The places of the elements of a piece that has several segments.
struct SeveralSegments {
    static constexpr int kShift = 20;
    static_assert(kBlock * kBlock <= 1 << kShift);
    int64_t at, stride;
    int length;
    unsigned reciprocal;  // replaces i / length by a multiplication; both are at most kBlock
    __device__ __forceinline__ explicit SeveralSegments(const Piece& piece)
        : at(piece.at),
          stride(piece.stride),
          length(piece.length),
          reciprocal(((1u << kShift) + unsigned(length) - 1) / unsigned(length)) {}
    __device__ __forceinline__ int64_t of(int i) const {
        const int segment = int(unsigned(i) * reciprocal >> kShift);
        return at + segment * stride + (i - segment * length);
    }
};

// Calls add(load(place), place, exists) for the first `n` elements of a piece. `kOne`: it is known to be one segment.
template <int kAtOnce, bool kOne, class Load, class Add>
__device__ __forceinline__ void for_piece(const Piece& piece, int n, const Load& load, Add add) {
    if (kOne || piece.segments == 1)
        for_places<kAtOnce>(OneSegment(piece.at), n, load, add);
    else
        for_places<kAtOnce>(SeveralSegments(piece), n, load, add);
}

// The same for all pieces of a flush block; `kStages`: in vectors.
template <int kAtOnce, bool kStages, class Stages, class Load, class Add>
__device__ __forceinline__ void for_pieces(const NormLayout& l, int64_t channel, const PieceRange& pieces,
                                           Stages& stages, const Load& load, Add add) {
    FASTOPT_ROLL
    for (int64_t k = pieces.begin; k < pieces.end; ++k) {
        const Piece piece = piece_of(l, channel, k);
        if constexpr (kStages)
            stages[threadIdx.x / kLanes].template for_segment<kAtOnce>(load, piece.at, piece.length, add);
        else
            for_piece<kAtOnce, false>(piece, piece.n(), load, add);
    }
}

// Joins a chunk's flush blocks; a warp's `sum(pieces)` returns the result of one in lane 0.
template <class Join, class Sum>
__device__ __forceinline__ void gather_chunk(const NormLayout& l, double* partials, Sum sum) {
    FASTOPT_SHARED(PartialSums[kFlushes], parts);
    FASTOPT_SHARED(Share[kFlushes], shares);
    const int warps = int(blockDim.x) / kLanes;
    const PieceRange pieces = pieces_of(l, int64_t(blockIdx.x) % l.chunks);
    const int flushes = int((pieces.end - pieces.begin + kFlushPieces - 1) / kFlushPieces);
    for (int k = int(threadIdx.x) / kLanes; k < flushes; k += warps) {
        const int64_t begin = pieces.begin + k * kFlushPieces, end = begin + kFlushPieces;
        const PieceRange own{begin, end < pieces.end ? end : pieces.end};
        const PartialSums part = sum(own);
        if (threadIdx.x % kLanes != 0) continue;
        parts[k] = part;
        shares[k] = Join::share_of(double(elements_of(l, {pieces.begin, begin})), double(elements_of(l, own)));
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    PartialSums all{};
    for (int k = 0; k < flushes; ++k) Join::join(all, parts[k], shares[k]);
    double* const pair = partials + 2 * int64_t(blockIdx.x);
    pair[0] = all.first;
    pair[1] = all.second;
}

template <class Format, bool kStages>
__global__ void __launch_bounds__(kWarps* kLanes, sizeof(typename Format::Compute) == 4 ? 4 : 2)
    plane_moments(const __grid_constant__ NormTask task) {
    using Storage = typename Format::Storage;
    using Staged = Stage<Storage, 1, 4>;  // a piece
    FASTOPT_SHARED(Staged[kWarps], stages);
    const Loader<Storage, 1> load{{static_cast<const Storage*>(task.input.data)}};
    const NormLayout& l = task.sets;
    const int64_t set = blockIdx.x / l.chunks;
    gather_chunk<JoinMoments>(l, task.partials, [&](PieceRange pieces) -> PartialSums {
        const Piece first = piece_of(l, set, pieces.begin);
        const auto shift = shift_of<Format>(Format::load(load.arrays[0][first.at]), first.n(), [&](int n, auto add) {
            for_piece<int(kShiftRows), kStages>(first, n, load, add);
        });
        return moments_about<Format>(shift, double(elements_of(l, pieces)),
                                     [&](auto add) { for_pieces<kLoads, kStages>(l, set, pieces, stages, load, add); });
    });
}

// Blocks of a multiprocessor, at least. Vectors of three operands would be spilled in the registers that 4 have.
template <class Format, class Activation, bool kStages>
constexpr int kBlocksOfSums = sizeof(typename Format::Compute) > 4 || Activation::costly ? 2
                              : kStages && !kPasses<Activation>                          ? 3
                                                                                         : 4;

template <class Format, class Activation, bool kStages>
__global__ void __launch_bounds__(kWarps* kLanes, kBlocksOfSums<Format, Activation, kStages>)
    plane_sums(const __grid_constant__ NormTask task) {
    using T = typename Format::Compute;
    using Storage = typename Format::Storage;
    constexpr int kResidual = 2, kArrays = kPasses<Activation> ? 2 : 3;
    using Staged = Stage<Storage, kArrays, 2>;  // half a piece
    FASTOPT_SHARED(Staged[kWarps], stages);
    Loader<Storage, kArrays> load{
        {static_cast<const Storage*>(task.input.data), static_cast<const Storage*>(task.grad.data)}};
    if constexpr (kArrays > kResidual) load.arrays[kResidual] = static_cast<const Storage*>(task.residual.data);
    auto* const kept = static_cast<Storage*>(task.kept.data);
    const bool adds = !kPasses<Activation> && task.residual.data != nullptr, keeps = kept != nullptr;
    const int64_t channel = blockIdx.x / task.layout.chunks;
    const Coefficients<T> of = coefficients_of<T>(task, channel_at(task, channel));
    const T slope = T(task.negative_slope);
    gather_chunk<JoinSums>(task.layout, task.partials, [&](PieceRange pieces) -> PartialSums {
        T sum{}, products{};
        const auto add = [&](const auto& loaded, int64_t at, bool is_element) {
            T x = of.center, grad = T(0);
            if (is_element) {
                x = Format::load(loaded.of[0]);
                grad = Format::load(loaded.of[1]);
                if constexpr (!kPasses<Activation>) {
                    const T residual = Format::load(loaded.of[kResidual]);
                    grad = Activation::gradient(z_of(x, of, adds, residual), grad, slope);
                    if (keeps) kept[at] = Format::store(grad);
                }
            }
            sum += grad;
            products += grad * (x - of.center);
        };
        for_pieces<kLoads / 2, kStages>(task.layout, channel, pieces, stages, load, add);
        return {merged(sum), merged(products)};
    });
}

using Kernel = void (*)(NormTask);

// By DType, and whether half types are staged; for sums, one row per activation.
constexpr Kernel moment_kernels[4][2] = {
    {plane_moments<Plain<float>, false>},
    {plane_moments<Plain<double>, false>},
    {plane_moments<Narrow<BFloat16>, false>, plane_moments<Narrow<BFloat16>, true>},
    {plane_moments<Narrow<Float16>, false>, plane_moments<Narrow<Float16>, true>}};

#define FASTOPT_SUM_KERNELS(name, Activation)                                                           \
    {{plane_sums<Plain<float>, Activation, false>},                                                     \
     {plane_sums<Plain<double>, Activation, false>},                                                    \
     {plane_sums<Narrow<BFloat16>, Activation, false>, plane_sums<Narrow<BFloat16>, Activation, true>}, \
     {plane_sums<Narrow<Float16>, Activation, false>, plane_sums<Narrow<Float16>, Activation, true>}},
constexpr Kernel sum_kernels[][4][2] = {FASTOPT_ACTIVATIONS(FASTOPT_SUM_KERNELS)};

// Whether all pieces are whole vectors of a half type.
template <class... Arrays>
bool is_staged(const NormTask& task, const NormLayout& l, const Arrays&... operands) {
    const bool half = task.input.type == DType::bf16 || task.input.type == DType::f16;
    return half && l.segments_per_piece == 1 && l.inner % kHalvesInVector == 0 && (is_aligned(operands.data) && ...);
}

void start(const Stream& stream, const char* name, Kernel kernel, const NormTask& task, const NormLayout& l) {
    const int64_t pieces = l.chunk < l.pieces ? l.chunk : l.pieces,
                  flushes = (pieces + kFlushPieces - 1) / kFlushPieces;
    const int warps = flushes < kWarps ? int(flushes) : kWarps;
    launch(stream, name, kernel, {l.channels * l.chunks, warps * kLanes}, task);
}

}  // namespace

void gather_plane_moments(const Stream& stream, const NormTask& task) {
    const bool staged = is_staged(task, task.sets, task.input);
    start(stream, "moments", moment_kernels[int(task.input.type)][staged], task, task.sets);
}

void gather_plane_sums(const Stream& stream, const NormTask& task) {
    const bool staged = is_staged(task, task.layout, task.input, task.grad, task.residual);
    start(stream, "sums of gradients", sum_kernels[task.activation][int(task.input.type)][staged], task, task.layout);
}

}  // namespace fastopt::cuda
