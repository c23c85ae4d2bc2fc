// The dropout family: makes flags, then loads, applies the rule and stores, in blocks that stay in L1.
#pragma once

#include "cpu/dropout/mask.h"
#include "cpu/machine.h"
#include "random/family.h"

namespace fastopt {
namespace {

// Elements [at, at + n) of the bias, which repeats for every row; n is at most kBlock.
template <class T>
const T* load_bias(const DropoutTask& task, int64_t at, int n, T* buffer) {
    int64_t column = at % task.columns;
    if (column + n <= task.columns) return load(task.bias, column, n, buffer);
    for (int done = 0; done < n;) {
        const int count = int(task.columns - column < n - done ? task.columns - column : n - done);
        const T* row = load(task.bias, column, count, buffer + done);
        if (row != buffer + done) __builtin_memcpy(buffer + done, row, size_t(count) * sizeof(T));
        done += count;
        column = 0;
    }
    return buffer;
}

// A format that the loop converts as it reads. float16 has a separate pass, with its own instructions.
template <class T>
struct Plain {
    using Storage = T;
    FASTOPT_HD static T load(T x) { return x; }
    FASTOPT_HD static T store(T x) { return x; }
};

// `x` and `out` may be the same memory.
template <class Rule, class T, class Format>
void apply_loop(const typename Format::Storage* x, const typename Format::Storage* __restrict residual,
                const T* __restrict bias, const uint8_t* __restrict flags, typename Format::Storage* out, int n,
                const typename Rule::template Scalars<T>& scalars) {
    FASTOPT_VECTORIZE
    for (int i = 0; i < n; ++i) {
        const Operands<T> in{Format::load(x[i]), Rule::residual ? Format::load(residual[i]) : T(0),
                             Rule::bias ? bias[i] : T(0)};
        out[i] = Format::store(Rule::apply(in, flags[i], scalars));
    }
}

template <class Storage>
Storage* at_element(const Array& array, int64_t at) {
    return array.data == nullptr ? nullptr : static_cast<Storage*>(array.data) + at;
}

template <class Rule, class T>
void apply_block(const DropoutTask& task, int64_t at, int n, const uint8_t* flags,
                 const typename Rule::template Scalars<T>& scalars) {
    alignas(64) T x_buffer[kBlock], residual_buffer[kBlock], bias_buffer[kBlock];
    const T* const bias = Rule::bias ? load_bias(task, at, n, bias_buffer) : nullptr;
    if (task.out.type == kNative<T>) {
        apply_loop<Rule, T, Plain<T>>(at_element<T>(task.input, at), at_element<T>(task.residual, at), bias, flags,
                                      at_element<T>(task.out, at), n, scalars);
        return;
    }
    if constexpr (sizeof(T) == sizeof(float)) {
        if (task.out.type == DType::bf16) {
            apply_loop<Rule, T, BFloat16>(at_element<uint16_t>(task.input, at), at_element<uint16_t>(task.residual, at),
                                          bias, flags, at_element<uint16_t>(task.out, at), n, scalars);
            return;
        }
        const T* const x = load(task.input, at, n, x_buffer);
        const T* const residual = Rule::residual ? load(task.residual, at, n, residual_buffer) : nullptr;
        apply_loop<Rule, T, Plain<T>>(x, residual, bias, flags, x_buffer, n, scalars);
        store(task.out, at, n, x_buffer);
    }
}

template <class Rule, class T>
void apply_span(const DropoutTask& task, int64_t at, int64_t n, const uint8_t* flags,
                const typename Rule::template Scalars<T>& scalars) {
    for (int64_t done = 0; done < n; done += kBlock)
        apply_block<Rule, T>(task, at + done, int(n - done < kBlock ? n - done : kBlock), flags + done, scalars);
}

// Prefetches the next steps' elements while the flags of one step are made, so that computing and waiting for DRAM
// overlap.
constexpr int kStep = 256;
constexpr int kStepsAhead = 4;

// Elements [begin, end) in the order of memory.
template <class Rule, class T>
void drop_along(const DropoutTask& task, int64_t begin, int64_t end) {
    const auto scalars = round_scalars<Rule::template Scalars, T>(task.scalars);
    Flags flags(task.mask, *task.layout, begin);
    const bool asks = machine.ahead > 0;
    for (int64_t at = begin; at < end; at += kStep) {
        const int64_t ahead = at + kStepsAhead * kStep;
        if (asks && ahead + kStep <= end) {
            prefetch(task.input, ahead, kStep);
            if (Rule::residual) prefetch(task.residual, ahead, kStep);
            prefetch(task.out, ahead, kStep);
        }
        const int n = int(end - at < kStep ? end - at : kStep);
        apply_block<Rule, T>(task, at, n, flags.next(n), scalars);
    }
}

// Tiles [begin, end) where the mask runs along one dimension and memory along another, as in channels-last tensors.
// Flags are made along the mask, then transposed.
template <class Rule, class T>
void drop_across(const DropoutTask& task, int64_t begin, int64_t end) {
    const auto scalars = round_scalars<Rule::template Scalars, T>(task.scalars);
    const MaskLayout& layout = *task.layout;
    const int inner = layout.ndim - 1;
    alignas(64) uint8_t along_mask[kAcross * kAlong], space[kAcross * kAlong];
    for (int64_t tile = begin; tile < end; ++tile) {
        const TilePosition t = tile_position(layout, tile);
        const int64_t step = layout.mask[inner];
        if (step == t.across)
            fill_flags(task.mask, uint64_t(t.element), t.across * t.along, along_mask);
        else
            for (int64_t k = 0; k < t.along; ++k)
                fill_flags(task.mask, uint64_t(t.element + k * step), t.across, along_mask + k * t.across);
        const uint8_t* const along_memory = transpose(along_mask, t.across, t.along, space);
        const int64_t row = layout.memory[layout.across];
        if (row == t.along)
            apply_span<Rule, T>(task, t.at, t.across * t.along, along_memory, scalars);
        else
            for (int64_t i = 0; i < t.across; ++i)
                apply_span<Rule, T>(task, t.at + i * row, t.along, along_memory + i * t.along, scalars);
    }
}

template <class Rule, class T>
void drop(const DropoutTask& task, int64_t begin, int64_t end) {
    if (task.layout->across < 0)
        drop_along<Rule, T>(task, begin, end);
    else
        drop_across<Rule, T>(task, begin, end);
}

// The gradients of x and of the bias, which is a sum over the rows. Units are blocks of kSumRows rows and kSumColumns
// columns.
template <class T>
void drop_and_sum(const DropoutTask& task, int64_t begin, int64_t end) {
    const auto scalars = round_scalars<Dropout::Scalars, T>(task.scalars);
    const int64_t across = (task.columns + kSumColumns - 1) / kSumColumns;
    alignas(64) uint8_t flags[kSumColumns];
    alignas(64) T buffer[kSumColumns];
    alignas(64) double strip[kSumColumns];
    for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t block = unit / across, column = unit % across * kSumColumns;
        const int64_t first = block * kSumRows;
        const int64_t last = first + kSumRows < task.rows ? first + kSumRows : task.rows;
        const int n = int(task.columns - column < kSumColumns ? task.columns - column : kSumColumns);
        double* const sums = task.column_sums + block * task.columns + column;
        for (int i = 0; i < n; ++i) sums[i] = strip[i] = 0;
        for (int64_t r = first; r < last; ++r) {
            const int64_t at = r * task.columns + column;
            fill_flags(task.mask, uint64_t(at), n, flags);
            const T* const grad = load(task.input, at, n, buffer);
            T* const out =
                task.out.data != nullptr && task.out.type == kNative<T> ? static_cast<T*>(task.out.data) + at : buffer;
            FASTOPT_VECTORIZE
            for (int i = 0; i < n; ++i) {
                const T value = Dropout::apply(Operands<T>{grad[i], 0, 0}, flags[i], scalars);
                out[i] = value;
                strip[i] += double(value);
            }
            if (task.out.data != nullptr) store(task.out, at, n, out);
            if ((r + 1) % kSumStrip == 0 || r + 1 == last)
                for (int i = 0; i < n; ++i) {
                    sums[i] += strip[i];
                    strip[i] = 0;
                }
        }
    }
}

// The mask itself: one byte per element, or one bit, lowest first.
inline void write_mask(const DropoutTask& task, int64_t begin, int64_t end) {
    fill_flags(task.mask, uint64_t(begin), end - begin, static_cast<uint8_t*>(task.out.data) + begin);
}

inline void write_packed_mask(const DropoutTask& task, int64_t begin, int64_t end) {
    alignas(64) uint8_t flags[kBlock];
    uint8_t* const out = static_cast<uint8_t*>(task.out.data);
    for (int64_t at = begin; at < end; at += kBlock) {
        const int n = int(end - at < kBlock ? end - at : kBlock);
        fill_flags(task.mask, uint64_t(at), n, flags);
        for (int i = n; i % 8 != 0; ++i) flags[i] = 0;
        for (int i = 0; i < n; i += 8) {
            uint8_t byte = 0;
            for (int k = 0; k < 8; ++k) byte = uint8_t(byte | flags[i + k] << k);
            out[(at + i) / 8] = byte;
        }
    }
}

inline void write_blocks(const DropoutTask& task, int64_t begin, int64_t end) {
    uint16_t* const out = static_cast<uint16_t*>(task.out.data);
    alignas(64) uint16_t blocks[kInterleaved * kCounters * kElementsPerBlock];
    constexpr int64_t step = kInterleaved * kCounters;
    const RoundKeys keys = round_keys(task.mask.seed);
    const int64_t all = int64_t(uint64_t(end) - uint64_t(begin));  // counters are unsigned 64-bit numbers
    for (int64_t at = 0; at < all; at += step) {
        const int64_t count = all - at < step ? all - at : step;
        random_blocks<kInterleaved>(keys, task.mask.offset, uint64_t(begin) + uint64_t(at), blocks);
        __builtin_memcpy(out + at * kElementsPerBlock, blocks, size_t(count * kElementsPerBlock) * sizeof(uint16_t));
    }
}

}  // namespace
}  // namespace fastopt
