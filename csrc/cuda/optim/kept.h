// A tensor's operands as they are kept (Storage in common.h), of any types: the device's twin of cpu/optim/stored.h,
// element by element. Codes are the warp's work: it takes their blocks.
#pragma once

#include "cuda/engine.h"
#include "cuda/memory.h"
#include "cuda/row.h"
#include "cuda/warp.h"
#include "math/codes.h"
#include "math/element.h"
#include "math/rounding.h"
#include "random/rounding.h"

namespace fastopt::cuda {
namespace {

static_assert(kCodeBlock == kLanes, "a warp has a block of codes");

template <class T>
class Kept {
   public:
    using Compute = T;
    static constexpr int kWidth = 1;  // neighbouring lanes of a thread

    template <class Table>
    __device__ __forceinline__ Kept(const Table& tensors, int tensor, const ScalarSet& set, int first_state)
        : arrays_(tensors.arrays[tensor]),
          types_(tensors.types[tensor]),
          storage_(tensors.storages[tensor]),
          set_(set),
          first_state_(first_state) {}

    __device__ __forceinline__ T load_param(int64_t at) const {
        const Array param = array(0);
        if constexpr (sizeof(T) == sizeof(float))
            if (storage_ != nullptr && storage_->master.data != nullptr) return load_master(param, at);
        return load_any(param, at);
    }
    __device__ __forceinline__ T load_grad(int64_t at) const { return load_any(array(1), at); }
    __device__ __forceinline__ T load_state(int k, int64_t at) const {
        const Array state = array(first_state_ + k);
        if constexpr (sizeof(T) == sizeof(float)) {
            if (state.type == DType::i8) return decode<SignedCode>(state, storage_->scales[k], at);
            if (state.type == DType::u8) return decode<NonNegativeCode>(state, storage_->scales[k], at);
        }
        return load_any(state, at);
    }

    // `random`: the element's 16 random bits.
    __device__ __forceinline__ void store_param(int64_t at, T value, uint16_t random) const {
        const Array param = array(0);
        if (storage_ == nullptr) return store_any(param, at, value);
        bool is_exact = param.type == kNative<T>;  // whether `value` is what a reader of the parameter finds
        if constexpr (sizeof(T) == sizeof(float)) {
            const Array& master = storage_->master;
            is_exact |= master.data != nullptr;
            if (master.data != nullptr && master.type == DType::i16) {
                const SplitFloat halves = split(value);
                static_cast<uint16_t*>(param.data)[at] = halves.upper;
                static_cast<int16_t*>(master.data)[at] = halves.lower;
            } else {
                if (master.data != nullptr) static_cast<float*>(master.data)[at] = value;
                store_rounded(param, at, value, set_.random_param, permuted(random, kPermutationOfParam));
            }
        } else {
            store_any(param, at, value);
        }
        if (!is_exact) value = load_any(param, at);
        const Array &average = storage_->average, &copy = storage_->copy;
        if (average.data != nullptr) store_any(average, at, lerp(load_any(average, at), value, T(set_.average_weight)));
        if (copy.data != nullptr)
            store_rounded(copy, at, value, set_.random_param, permuted(random, kPermutationOfCopy));
    }
    // What store_param() kept of a value: itself, or its rounding.
    __device__ __forceinline__ T kept(int64_t at, T value) const {
        const bool has_master = storage_ != nullptr && storage_->master.data != nullptr;
        return types_[0] == kNative<T> || has_master ? value : load_any(array(0), at);
    }
    __device__ __forceinline__ void store_grad(int64_t at, T value) const { store_any(array(1), at, value); }

    // Of a state without codes.
    __device__ __forceinline__ void store_number(int k, int64_t at, T value, uint16_t random) const {
        store_rounded(array(first_state_ + k), at, value, set_.random_states,
                      permuted(random, permutation_of_state(k)));
    }

    // All threads of a warp must call this, for the 32 elements from a multiple of 32 on. `exists`: within the tensor.
    __device__ __forceinline__ void store_state(int k, int64_t at, bool exists, T value, uint16_t random) const {
        const Array state = array(first_state_ + k);
        if constexpr (sizeof(T) == sizeof(float)) {
            if (state.type == DType::i8) return encode<SignedCode>(state, storage_->scales[k], at, exists, value);
            if (state.type == DType::u8) return encode<NonNegativeCode>(state, storage_->scales[k], at, exists, value);
        }
        if (exists) store_number(k, at, value, random);
    }

    // The random bits of an element; 0 where nothing is rounded at random.
    __device__ __forceinline__ uint16_t random_at(int64_t at) const {
        if (!is_random()) return 0;
        const uint64_t element = uint64_t(storage_->first + at);
        return uint16_t(bits_of_element(block(element / kElementsPerBlock), unsigned(element % kElementsPerBlock)));
    }

    // The same for rows of a warp's threads: the i-th begins at `begin` + i * `stride`. The elements of a row lie in at
    // most five blocks, and each thread computes one block. All threads of the warp must call this.
    template <int kCount>
    __device__ __forceinline__ void random_rows(int64_t begin, int stride, uint16_t (&random)[kCount]) const {
        constexpr int kBlocksOfRow = 8;
        static_assert(kCount * kBlocksOfRow == kLanes && kBlocksOfRow > kLanes / kElementsPerBlock);
        if (!is_random()) return;
        const int lane = int(threadIdx.x) % kLanes;
        const uint64_t first = uint64_t(storage_->first + begin);
        const auto first_block = [&](int row) { return (first + uint64_t(row * stride)) / kElementsPerBlock; };
        const Philox own = block(first_block(lane / kBlocksOfRow) + uint64_t(lane % kBlocksOfRow));
        FASTOPT_UNROLL
        for (int i = 0; i < kCount; ++i) {
            const uint64_t element = first + uint64_t(i * stride + lane);
            const int source = i * kBlocksOfRow + int(element / kElementsPerBlock - first_block(i));
            Philox drawn;
            for (int word = 0; word < 4; ++word) drawn.word[word] = __shfl_sync(~0u, own.word[word], source);
            random[i] = uint16_t(bits_of_element(drawn, unsigned(element % kElementsPerBlock)));
        }
    }

    // Rows, as Typed has them.
    struct Row {
        T values[kRowSteps];

        template <int kCount>
        __device__ __forceinline__ void unpack(int first, T (&to)[kCount]) const {
            for (int i = 0; i < kCount; ++i) to[i] = values[first + i];
        }
    };
    __device__ __forceinline__ void load_param(int64_t at, int columns, int lane, Row& row) const {
        load_param(at, columns, lane, row.values);
    }
    __device__ __forceinline__ void load_grad(int64_t at, int columns, int lane, Row& row) const {
        load_grad(at, columns, lane, row.values);
    }
    template <int kSteps>
    __device__ __forceinline__ void load_param(int64_t at, int columns, int lane, T (&values)[kSteps]) const {
        load_elements(at, columns, lane, values, [&](int64_t i) { return load_param(i); });
    }
    template <int kSteps>
    __device__ __forceinline__ void load_grad(int64_t at, int columns, int lane, T (&values)[kSteps]) const {
        load_elements(at, columns, lane, values, [&](int64_t i) { return load_grad(i); });
    }
    template <int kSteps>
    __device__ __forceinline__ void load_state(int k, int64_t at, int columns, int lane, T (&values)[kSteps]) const {
        load_elements(at, columns, lane, values, [&](int64_t i) { return load_state(k, i); });
    }
    template <int kSteps>
    __device__ __forceinline__ void store_param(int64_t at, int columns, int lane, const T (&values)[kSteps]) const {
        FASTOPT_UNROLL
        for (int i = 0; i < kSteps; ++i)
            if (lane + i * kLanes < columns)
                store_param(at + lane + i * kLanes, values[i], random_at(at + lane + i * kLanes));
    }
    template <int kSteps>
    __device__ __forceinline__ void store_grad(int64_t at, int columns, int lane, const T (&values)[kSteps]) const {
        FASTOPT_UNROLL
        for (int i = 0; i < kSteps; ++i)
            if (lane + i * kLanes < columns) store_grad(at + lane + i * kLanes, values[i]);
    }

   private:
    __device__ __forceinline__ Array array(int i) const { return {arrays_[i], types_[i]}; }
    __device__ __forceinline__ bool is_random() const {
        return storage_ != nullptr && (set_.random_param || set_.random_states);
    }
    __device__ __forceinline__ Philox block(uint64_t number) const {
        return Philox::block(set_.seed, number, rounding_counter(storage_->number, set_.step));
    }

    // A parameter that somebody changed since the last step takes the place of its master.
    __device__ __forceinline__ static float follow(float master, uint16_t param, DType type) {
        if (type == DType::bf16) return BFloat16::store(master) == param ? master : BFloat16::load(param);
        return Float16::store(master) == param ? master : Float16::load(param);
    }
    __device__ __forceinline__ float load_master(const Array& param, int64_t at) const {
        const uint16_t upper = static_cast<const uint16_t*>(param.data)[at];
        const Array& master = storage_->master;
        if (master.type == DType::i16) return fastopt::join(upper, static_cast<const int16_t*>(master.data)[at]);
        return follow(static_cast<const float*>(master.data)[at], upper, param.type);
    }

    __device__ __forceinline__ static void store_rounded(const Array& out, int64_t at, T value, bool at_random,
                                                         uint16_t random) {
        if constexpr (sizeof(T) == sizeof(float)) {
            uint16_t* const halves = static_cast<uint16_t*>(out.data);
            if (at_random && out.type == DType::bf16) {
                halves[at] = round_at_random<BFloat16>(value, random);
                return;
            }
            if (at_random && out.type == DType::f16) {
                halves[at] = round_at_random<Float16>(value, random);
                return;
            }
        }
        store_any(out, at, value);
    }

    __device__ __forceinline__ static T load_any(const Array& from, int64_t at) {
        if (sizeof(T) == sizeof(float) ? from.type != DType::f64 : from.type == DType::f64)
            return load_element<T>(from.data, from.type, at);
        return T(element(from, at));
    }
    __device__ __forceinline__ static void store_any(const Array& to, int64_t at, T value) {
        if (sizeof(T) == sizeof(float) ? to.type != DType::f64 : to.type == DType::f64)
            return store_element(to.data, to.type, at, value);
        set_element(to, at, double(value));
    }

    template <class Code>
    __device__ __forceinline__ static float decode(const Array& codes, const float* scales, int64_t at) {
        const auto code = float(static_cast<const typename Code::Storage*>(codes.data)[at]);
        return Code::decode(code, scales[at / kCodeBlock]);
    }
    template <class Code>
    __device__ __forceinline__ static void encode(const Array& codes, float* scales, int64_t at, bool exists,
                                                  float value) {
        const float scale = code_scale(largest_in_warp(exists ? bits(value) & 0x7fffffffu : 0u));
        __syncwarp();  // all lanes have read the scale, which one replaces: shuffles do not order accesses
        if (!exists) return;
        static_cast<typename Code::Storage*>(codes.data)[at] =
            typename Code::Storage(Code::encode(value, reciprocal_of_scale(scale)));
        if (at % kCodeBlock == 0) scales[at / kCodeBlock] = scale;
    }

    template <int kSteps, class Load>
    __device__ __forceinline__ static void load_elements(int64_t at, int columns, int lane, T (&values)[kSteps],
                                                         Load load) {
        FASTOPT_UNROLL
        for (int i = 0; i < kSteps; ++i) values[i] = lane + i * kLanes < columns ? load(at + lane + i * kLanes) : T(0);
    }

    void* const* const arrays_;
    const DType* const types_;
    const Storage* const storage_;
    const ScalarSet& set_;
    const int first_state_;
};

}  // namespace
}  // namespace fastopt::cuda
