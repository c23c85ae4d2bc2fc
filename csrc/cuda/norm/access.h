// How the element kernels load and store: vectors of one format, or single elements of any type.
#pragma once

#include "cuda/memory.h"

namespace fastopt::cuda {
namespace {

// `Memory` is what was loaded; unpacking it late saves registers.
template <class Format>
struct Vectors {
    using Compute = typename Format::Compute;
    static constexpr int width = int(sizeof(uint4) / sizeof(typename Format::Storage));
    using Memory = Stored<Format, width>;
    __device__ __forceinline__ static void load(const Array& from, int64_t at, Memory& memory) {
        memory.load(from.data, at);
    }
    __device__ __forceinline__ static void unpack(const Memory& memory, Compute (&values)[width]) {
        memory.unpack(values);
    }
    __device__ __forceinline__ static void store(const Array& to, int64_t at, const Compute (&values)[width]) {
        Memory::store(to.data, at, values);
    }
};

template <class T>
struct Singles {
    using Compute = T;
    static constexpr int width = 1;
    using Memory = T;
    __device__ __forceinline__ static void load(const Array& from, int64_t at, T& memory) {
        memory = load_element<T>(from.data, from.type, at);
    }
    __device__ __forceinline__ static void unpack(const T& memory, T (&values)[1]) { values[0] = memory; }
    __device__ __forceinline__ static void store(const Array& to, int64_t at, const T (&values)[1]) {
        store_element(to.data, to.type, at, values[0]);
    }
};

}  // namespace
}  // namespace fastopt::cuda
