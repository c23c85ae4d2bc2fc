// A parameter and its states as they are kept (Storage in common.h): loaded into the compute type and stored again,
// block by block. Where nothing is special this is load() and store().
#pragma once

#include "cpu/block.h"
#include "cpu/optim/coded.h"
#include "cpu/philox.h"
#include "math/rounding.h"
#include "random/rounding.h"

namespace fastopt {
namespace {

constexpr int kMostStored = 512;  // elements of a block at most
static_assert(kMostStored % kFour == 0, "what decode() fills");

template <class Half>
FASTOPT_NOINLINE void narrow_at_random(const float* __restrict from, uint16_t* __restrict to,
                                       const uint16_t* __restrict random, uint16_t permutation, int n) {
    FASTOPT_VECTORIZE
    for (int i = 0; i < n; ++i) to[i] = round_at_random<Half>(from[i], permuted(random[i], permutation));
}

// A parameter that somebody changed since the last step is no longer the rounding of its master, and takes its place.
template <class Half>
FASTOPT_NOINLINE void follow(float* __restrict master, const uint16_t* __restrict param, int n) {
    FASTOPT_VECTORIZE
    for (int i = 0; i < n; ++i) master[i] = Half::store(master[i]) == param[i] ? master[i] : Half::load(param[i]);
}

FASTOPT_NOINLINE void join(const uint16_t* __restrict upper, const int16_t* __restrict lower, float* __restrict to,
                           int n) {
    FASTOPT_VECTORIZE
    for (int i = 0; i < n; ++i) to[i] = join(upper[i], lower[i]);
}

FASTOPT_NOINLINE void split(const float* __restrict from, uint16_t* __restrict upper, int16_t* __restrict lower,
                            int n) {
    FASTOPT_VECTORIZE
    for (int i = 0; i < n; ++i) {
        const SplitFloat halves = split(from[i]);
        upper[i] = halves.upper;
        lower[i] = halves.lower;
    }
}

// Where memory does not come by itself: hardware prefetchers stop at every 4 KiB page, and there are several rows.
// Never past the tile's end: those lines may be in another worker's cache, being written.
template <bool kParam, bool kGrad, int kCount>
FASTOPT_HD void prefetch_ahead(const Task& task, int first_state, int states, int64_t at, int64_t end, int64_t ahead) {
    if (ahead == 0 || end - at < ahead + kCount) return;
    if (kParam) prefetch(task.param, at + ahead, kCount);
    if (kGrad) prefetch(task.grad, at + ahead, kCount);
    for (int k = 0; k < states; ++k) prefetch(task.states[first_state + k], at + ahead, kCount);
}

template <class T>
class Stored {
   public:
    explicit Stored(const Task& task) : task_(task), storage_(task.storage) {}

    // A block of at most kMostStored elements; `at` is a multiple of kCodeBlock where states are coded.
    FASTOPT_HD T* load_param(int64_t at, int n, T* buffer) const {
        if constexpr (sizeof(T) == sizeof(float))
            if (storage_ != nullptr && storage_->master.data != nullptr) return load_master(at, n, buffer);
        return load(task_.param, at, n, buffer);
    }

    FASTOPT_HD T* load_state(int k, int64_t at, int n, T* buffer) const {
        if constexpr (sizeof(T) == sizeof(float))
            if (storage_ != nullptr && storage_->scales[k] != nullptr) return load_coded(k, at, n, buffer);
        return load(task_.states[k], at, n, buffer);
    }

    // `values` are what load_param() or load_state() returned: the tensor's own memory where nothing changes on the
    // way.
    FASTOPT_HD void store_param(int64_t at, int n, const T* values) {
        if (storage_ != nullptr)
            store_kept(at, n, values);
        else if (task_.param.type != kNative<T>)
            store(task_.param, at, n, values);
    }

    // What store_param() kept of these values: themselves, or their rounding.
    FASTOPT_HD const T* kept(int64_t at, int n, const T* values, T* buffer) const {
        return keeps_exactly() ? values : load(task_.param, at, n, buffer);
    }

    FASTOPT_HD void store_state(int k, int64_t at, int n, const T* values) {
        measure_state(k, at, n, values);
        store_measured(k, at, n, values);
    }

    // All states. Their scales come first: codes of one state are made while the scales of the next are found.
    FASTOPT_HD void store_states(int states, int64_t at, int n, const T* const* values) {
        for (int k = 0; k < states; ++k) measure_state(k, at, n, values[k]);
        for (int k = 0; k < states; ++k) store_measured(k, at, n, values[k]);
    }

   private:
    FASTOPT_HD void measure_state(int k, int64_t at, int n, const T* values) {
        if constexpr (sizeof(T) == sizeof(float))
            if (storage_ != nullptr && storage_->scales[k] != nullptr)
                measure(values, storage_->scales[k] + at / kCodeBlock, reciprocals_[k], n);
    }

    FASTOPT_HD void store_measured(int k, int64_t at, int n, const T* values) {
        if (task_.states[k].type == kNative<T>) return;
        if constexpr (sizeof(T) == sizeof(float)) {
            if (storage_ != nullptr && storage_->scales[k] != nullptr) return store_coded(k, at, n, values);
            if (storage_ != nullptr && task_.constants->random_states && is_half(task_.states[k]))
                return store_at_random(task_.states[k], at, n, values, permutation_of_state(k));
        }
        store(task_.states[k], at, n, values);
    }

    static bool is_half(const Array& array) { return array.type == DType::bf16 || array.type == DType::f16; }
    static uint16_t* half_at(const Array& array, int64_t at) { return static_cast<uint16_t*>(array.data) + at; }

    FASTOPT_NOINLINE float* load_master(int64_t at, int n, float* buffer) const {
        const Array& master = storage_->master;
        const uint16_t* const param = half_at(task_.param, at);
        if (master.type == DType::i16) {
            join(param, static_cast<const int16_t*>(master.data) + at, buffer, n);
            return buffer;
        }
        float* const values = static_cast<float*>(master.data) + at;
        if (task_.param.type == DType::bf16)
            follow<BFloat16>(values, param, n);
        else
            follow<Float16>(values, param, n);
        return values;
    }

    // Whether store_param() keeps its values as they are: in the parameter or in its master.
    FASTOPT_HD bool keeps_exactly() const {
        return task_.param.type == kNative<T> || (storage_ != nullptr && storage_->master.data != nullptr);
    }

    FASTOPT_NOINLINE void store_kept(int64_t at, int n, const T* values) {
        if constexpr (sizeof(T) == sizeof(float)) {
            const Array& master = storage_->master;
            if (master.type == DType::i16 && master.data != nullptr)
                split(values, half_at(task_.param, at), static_cast<int16_t*>(master.data) + at, n);
            else if (master.data == nullptr && task_.constants->random_param && is_half(task_.param))
                store_at_random(task_.param, at, n, values, kPermutationOfParam);
            else
                store(task_.param, at, n, values);
        } else {
            store(task_.param, at, n, values);
        }
        if (storage_->average.data == nullptr && storage_->copy.data == nullptr) return;
        alignas(64) T buffer[kMostStored], averages[kMostStored];
        values = kept(at, n, values, buffer);
        if (storage_->average.data != nullptr) {
            T* const average = load(storage_->average, at, n, averages);
            const T weight = T(task_.constants->average_weight);
            FASTOPT_VECTORIZE
            for (int i = 0; i < n; ++i) average[i] = lerp(average[i], values[i], weight);
            store(storage_->average, at, n, average);
        }
        if (storage_->copy.data == nullptr) return;
        if constexpr (sizeof(T) == sizeof(float))
            if (task_.constants->random_param && is_half(storage_->copy))
                return store_at_random(storage_->copy, at, n, values, kPermutationOfCopy);
        store(storage_->copy, at, n, values);
    }

    FASTOPT_NOINLINE float* load_coded(int k, int64_t at, int n, float* buffer) const {
        const Array& codes = task_.states[k];
        const float* const scales = storage_->scales[k] + at / kCodeBlock;
        if (codes.type == DType::i8)
            decode<SignedCode>(static_cast<const int8_t*>(codes.data) + at, scales, buffer, n);
        else
            decode<NonNegativeCode>(static_cast<const uint8_t*>(codes.data) + at, scales, buffer, n);
        return buffer;
    }

    FASTOPT_NOINLINE void store_coded(int k, int64_t at, int n, const float* values) const {
        const Array& codes = task_.states[k];
        if (codes.type == DType::i8)
            encode<SignedCode>(values, reciprocals_[k], static_cast<int8_t*>(codes.data) + at, n);
        else
            encode<NonNegativeCode>(values, reciprocals_[k], static_cast<uint8_t*>(codes.data) + at, n);
    }

    void store_at_random(const Array& array, int64_t at, int n, const float* values, uint16_t permutation) {
        const uint16_t* const random = random_at(storage_->first + at, n);
        if (array.type == DType::bf16)
            narrow_at_random<BFloat16>(values, half_at(array, at), random, permutation, n);
        else
            narrow_at_random<Float16>(values, half_at(array, at), random, permutation, n);
    }

    // The 16 bits of elements [at, at + n). What was drawn beyond an earlier block serves the next.
    FASTOPT_NOINLINE const uint16_t* random_at(int64_t at, int n) {
        constexpr int kDrawn = kInterleaved * kCounters * kElementsPerBlock;
        if (at < drawn_begin_ || at + n > drawn_end_) {
            if (drawn_end_ == 0) keys_ = round_keys(task_.constants->seed);
            const uint64_t counter = rounding_counter(storage_->number, task_.constants->step);
            drawn_begin_ = drawn_end_ = at / kElementsPerBlock * kElementsPerBlock;
            while (drawn_end_ < at + n) {
                random_blocks<kInterleaved>(keys_, counter, uint64_t(drawn_end_ / kElementsPerBlock),
                                            random_ + (drawn_end_ - drawn_begin_));
                drawn_end_ += kDrawn;
            }
        }
        return random_ + (at - drawn_begin_);
    }

    const Task& task_;
    const Storage* const storage_;
    alignas(64) float reciprocals_[kMaxStates][kMostStored / kCodeBlock];  // of the block that is being stored
    int64_t drawn_begin_ = 0, drawn_end_ = 0;
    RoundKeys keys_;  // from the first draw on
    alignas(64) uint16_t random_[kMostStored + 2 * kInterleaved * kCounters * kElementsPerBlock];
};

}  // namespace
}  // namespace fastopt
