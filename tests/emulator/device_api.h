// What a kernel calls. A thread that has to wait for others calls meet, and the emulator runs the others first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "vector_types.h"

namespace emulator {

extern uint3 thread_index, block_index;  // of the running thread
extern dim3 block_size, grid_size;

// A line of the kernel's source where threads meet.
struct Site {
    const char* file;
    int line;
    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
};

void meet_block(Site);
void meet_warp(unsigned mask, Site);
// Gives `value` and returns that of lane `source`.
uint64_t exchange(const char* function, unsigned mask, uint64_t value, unsigned source, Site);
// Returns the lanes of the mask that vote yes.
unsigned vote(const char* function, unsigned mask, bool yes, Site);

void fence();

unsigned lane();
void* shared_memory(const void* key, size_t bytes, size_t alignment);
void* dynamic_shared_memory();

template <class T>
T shuffle(const char* function, unsigned mask, T value, unsigned source, Site site) {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "a type that CUDA does not shuffle");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    // A lane outside the warp stands for the caller's own value.
    bits = exchange(function, mask, bits, source < 32 ? source : lane(), site);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

template <class T, class Key>
T& shared_variable(Key) {
    static_assert(std::is_trivially_default_constructible_v<T>, "shared memory is not initialised");
    static char key;
    return *static_cast<T*>(shared_memory(&key, sizeof(T), alignof(T)));
}

}  // namespace emulator

inline constexpr const uint3& threadIdx = emulator::thread_index;
inline constexpr const uint3& blockIdx = emulator::block_index;
inline constexpr const dim3& blockDim = emulator::block_size;
inline constexpr const dim3& gridDim = emulator::grid_size;
inline constexpr int warpSize = 32;

// FASTOPT_SHARED(double[32], sums) declares the variable `sums`, which all threads of the block share.
#define FASTOPT_SHARED(type, name) \
    using name##_type = type;      \
    name##_type& name = emulator::shared_variable<name##_type>([] {})

// FASTOPT_DYNAMIC_SHARED(double, name) declares a double* to the memory whose size the launch sets.
#define FASTOPT_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(emulator::dynamic_shared_memory())

inline void __syncthreads(emulator::Site site = emulator::Site::here()) { emulator::meet_block(site); }
inline void __syncwarp(unsigned mask = ~0u, emulator::Site site = emulator::Site::here()) {
    emulator::meet_warp(mask, site);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, emulator::Site site = emulator::Site::here()) {
    return emulator::shuffle("__shfl_sync", mask, value, unsigned(source) % 32, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, emulator::Site site = emulator::Site::here()) {
    return emulator::shuffle("__shfl_up_sync", mask, value, emulator::lane() - delta, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, emulator::Site site = emulator::Site::here()) {
    return emulator::shuffle("__shfl_down_sync", mask, value, emulator::lane() + delta, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, emulator::Site site = emulator::Site::here()) {
    return emulator::shuffle("__shfl_xor_sync", mask, value, emulator::lane() ^ unsigned(lanes), site);
}
inline unsigned __ballot_sync(unsigned mask, int yes, emulator::Site site = emulator::Site::here()) {
    return emulator::vote("__ballot_sync", mask, yes, site);
}
inline int __any_sync(unsigned mask, int yes, emulator::Site site = emulator::Site::here()) {
    return emulator::vote("__any_sync", mask, yes, site) != 0;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((static_cast<unsigned long long>(a) * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    __extension__ using Wide = unsigned __int128;
    return static_cast<unsigned long long>(static_cast<Wide>(a) * b >> 64);
}

inline void __threadfence() { emulator::fence(); }

inline int atomicAdd(int* address, int value) { return __atomic_fetch_add(address, value, __ATOMIC_RELAXED); }
inline unsigned atomicAdd(unsigned* address, unsigned value) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
inline unsigned long long atomicAdd(unsigned long long* address, unsigned long long value) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
inline unsigned atomicInc(unsigned* address, unsigned last) {
    unsigned before = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(address, &before, before >= last ? 0 : before + 1, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
    }
    return before;
}

template <class T>
T __ldg(const T* address) {
    return *address;
}
template <class T>
T __ldcs(const T* address) {
    return *address;
}
template <class T>
T __ldcg(const T* address) {
    return *address;
}
template <class T>
void __stcs(T* address, T value) {
    *address = value;
}
template <class T>
void __stcg(T* address, T value) {
    *address = value;
}
