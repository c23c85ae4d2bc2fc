// Brings tables to a device.
#include <cstring>

#include "cuda/launch.h"

namespace fastopt::cuda {
namespace {

constexpr int kWriters = 256;

// A piece of a table, as parameters: as much as they have room for.
template <int kWords>
struct Words {
    uint64_t words[kWords];
    int count;
    uint64_t* there;
};

constexpr int words_of(size_t bytes) { return int(bytes / sizeof(uint64_t)) - 2; }
constexpr int kFewWords = words_of(kFewParameterBytes), kMostWords = words_of(kParameterBytes);
static_assert(sizeof(Words<kMostWords>) <= kParameterBytes);

template <int kWords>
__global__ void __launch_bounds__(kWriters) write_words(const __grid_constant__ Words<kWords> piece) {
    const int i = int(blockIdx.x * kWriters + threadIdx.x);
    if (i < piece.count) piece.there[i] = piece.words[i];
}

template <int kWords>
void start(const Stream& stream, const void* words, int count, uint64_t* there) {
    Words<kWords> piece;
    std::memcpy(piece.words, words, static_cast<size_t>(count) * sizeof(uint64_t));
    piece.count = count;
    piece.there = there;
    launch(stream, "table", write_words<kWords>, {(count + kWriters - 1) / kWriters, kWriters}, piece);
}

}  // namespace

void upload(const Stream& stream, const void* table, size_t bytes, void* there) {
    in_turns(static_cast<int>(bytes / sizeof(uint64_t)), kMostWords, [&](int first, int n) {
        const void* const piece = static_cast<const uint64_t*>(table) + first;
        uint64_t* const to = static_cast<uint64_t*>(there) + first;
        (n <= kFewWords ? start<kFewWords> : start<kMostWords>)(stream, piece, n, to);
    });
}

}  // namespace fastopt::cuda
