// A tensor's elements in registers: 16 bytes at a time, or one by one for any type.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "math/half.h"

// FASTOPT_UNROLL: for loops over arrays that must stay in registers. FASTOPT_ROLL: where that would take too many
// registers.
#if defined(__CUDACC__)
#define FASTOPT_UNROLL _Pragma("unroll")
#define FASTOPT_ROLL _Pragma("unroll 1")
#else
#define FASTOPT_UNROLL
#define FASTOPT_ROLL
#endif

namespace fastopt {
namespace {

// How elements are stored, and the type they are computed in.
template <class T>
struct Plain {
    using Storage = T;
    using Compute = T;
    FASTOPT_HD static T load(T x) { return x; }
    FASTOPT_HD static T store(T x) { return x; }
};

template <class Half>
struct Narrow : Half {
    using Compute = float;
};

// `N` elements, a multiple of 16 bytes, at an aligned address. The intrinsics keep the compiler from splitting a uint4
// into its elements, and bypass the L1, because nothing is read twice.
template <class Format, int N>
__device__ __forceinline__ void load_vector(const void* data, int64_t at, typename Format::Compute (&values)[N]) {
    using Storage = typename Format::Storage;
    constexpr int kVectors = int(N * sizeof(Storage) / sizeof(uint4));
    static_assert(kVectors * sizeof(uint4) == N * sizeof(Storage));
    uint4 vectors[kVectors];
    const uint4* const from = reinterpret_cast<const uint4*>(static_cast<const Storage*>(data) + at);
    for (int v = 0; v < kVectors; ++v) vectors[v] = __ldcg(from + v);
    Storage stored[N];
    __builtin_memcpy(stored, vectors, sizeof stored);
    for (int k = 0; k < N; ++k) values[k] = Format::load(stored[k]);
}

template <class Format, int N>
__device__ __forceinline__ void store_vector(void* data, int64_t at, const typename Format::Compute (&values)[N]) {
    using Storage = typename Format::Storage;
    constexpr int kVectors = int(N * sizeof(Storage) / sizeof(uint4));
    Storage stored[N];
    for (int k = 0; k < N; ++k) stored[k] = Format::store(values[k]);
    uint4 vectors[kVectors];
    __builtin_memcpy(vectors, stored, sizeof stored);
    uint4* const to = reinterpret_cast<uint4*>(static_cast<Storage*>(data) + at);
    for (int v = 0; v < kVectors; ++v) __stcg(to + v, vectors[v]);
}

// `N` elements as stored: one, or 4, 8 or 16 bytes of them at an aligned address. Unpacking them late saves registers
// for half types, and does not wait for loads in flight.
template <class Format, int N>
struct Stored {
    using Storage = typename Format::Storage;
    using Compute = typename Format::Compute;
    static constexpr size_t kBytes = N * sizeof(Storage);
    using Several = std::conditional_t<kBytes == 4, uint32_t, std::conditional_t<kBytes == 8, uint2, uint4>>;
    using Memory = std::conditional_t<N == 1, Storage, Several>;
    static_assert(sizeof(Memory) == kBytes);

    Memory memory;

    __device__ __forceinline__ void load(const void* data, int64_t at) { memory = __ldcg(address(data, at)); }

    // Through the L1, for data that other warps also read.
    __device__ __forceinline__ void load_shared(const void* data, int64_t at) { memory = *address(data, at); }
    // Without a branch where it is conditional, unlike an intrinsic.
    __device__ __forceinline__ void store_shared(void* data, int64_t at) const {
        *reinterpret_cast<Memory*>(static_cast<Storage*>(data) + at) = memory;
    }

    __device__ __forceinline__ void unpack(Compute* values) const {
        Storage stored[N];
        __builtin_memcpy(stored, &memory, sizeof memory);
        for (int k = 0; k < N; ++k) values[k] = Format::load(stored[k]);
    }
    __device__ __forceinline__ void pack(const Compute* values) {
        Storage stored[N];
        for (int k = 0; k < N; ++k) stored[k] = Format::store(values[k]);
        __builtin_memcpy(&memory, stored, sizeof memory);
    }
    __device__ __forceinline__ void store(void* data, int64_t at) const {
        __stcg(reinterpret_cast<Memory*>(static_cast<Storage*>(data) + at), memory);
    }
    __device__ __forceinline__ static void store(void* data, int64_t at, const Compute* values) {
        Stored packed;
        packed.pack(values);
        packed.store(data, at);
    }

   private:
    __device__ __forceinline__ static const Memory* address(const void* data, int64_t at) {
        return reinterpret_cast<const Memory*>(static_cast<const Storage*>(data) + at);
    }
};

// Everything that was to be loaded is asked for before the first of it is used. Otherwise the compiler asks for
// optional operands where they are used, and a thread waits for memory twice.
__device__ __forceinline__ void end_loads() { asm volatile("" ::: "memory"); }

template <class Format>
__device__ __forceinline__ typename Format::Compute load_element(const void* data, int64_t at) {
    return Format::load(static_cast<const typename Format::Storage*>(data)[at]);
}

template <class Format>
__device__ __forceinline__ void store_element(void* data, int64_t at, typename Format::Compute value) {
    static_cast<typename Format::Storage*>(data)[at] = Format::store(value);
}

// One element of a tensor of any type, computed in T.
template <class T>
__device__ __forceinline__ T load_element(const void* data, DType type, int64_t at) {
    if constexpr (sizeof(T) == sizeof(float)) {
        if (type == DType::bf16) return load_element<Narrow<BFloat16>>(data, at);
        if (type == DType::f16) return load_element<Narrow<Float16>>(data, at);
    }
    return load_element<Plain<T>>(data, at);
}

template <class T>
__device__ __forceinline__ void store_element(void* data, DType type, int64_t at, T value) {
    if constexpr (sizeof(T) == sizeof(float)) {
        if (type == DType::bf16) return store_element<Narrow<BFloat16>>(data, at, value);
        if (type == DType::f16) return store_element<Narrow<Float16>>(data, at, value);
    }
    store_element<Plain<T>>(data, at, value);
}

inline bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % sizeof(uint4) == 0; }

}  // namespace
}  // namespace fastopt
