// A fiber: a separate stack for a thread of a block that has to wait. ucontext is not used, because each of its
// switches is a system call, before which AddressSanitizer forgets all it knows of the stack.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATOR_ASAN 1
#endif
#endif

#ifdef EMULATOR_ASAN
#include <sanitizer/common_interface_defs.h>
#else
inline void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
inline void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
#endif

// Saves the registers that a function has to preserve on the stack it leaves, and restores them from the other one.
extern "C" void emulator_switch_stack(void** left, void* entered);

asm(".text\n"
    ".type emulator_switch_stack, %function\n"
    ".hidden emulator_switch_stack\n"
    ".weak emulator_switch_stack\n"  // several files include it
    "emulator_switch_stack:\n"
#if defined(__x86_64__)
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
    "    ret\n"
#elif defined(__aarch64__)
    "    sub sp, sp, #160\n"
    "    stp x19, x20, [sp]\n      stp x21, x22, [sp, #16]\n  stp x23, x24, [sp, #32]\n  stp x25, x26, [sp, #48]\n"
    "    stp x27, x28, [sp, #64]\n stp d8, d9, [sp, #80]\n    stp d10, d11, [sp, #96]\n stp d12, d13, [sp, #112]\n"
    "    stp d14, d15, [sp, #128]\n stp x29, x30, [sp, #144]\n"
    "    mov x9, sp\n          str x9, [x0]\n"
    "    mov sp, x1\n"
    "    ldp x19, x20, [sp]\n      ldp x21, x22, [sp, #16]\n  ldp x23, x24, [sp, #32]\n  ldp x25, x26, [sp, #48]\n"
    "    ldp x27, x28, [sp, #64]\n ldp d8, d9, [sp, #80]\n    ldp d10, d11, [sp, #96]\n ldp d12, d13, [sp, #112]\n"
    "    ldp d14, d15, [sp, #128]\n ldp x29, x30, [sp, #144]\n"
    "    add sp, sp, #160\n"
    "    ret\n"
#else
#error "the emulator's fibers need emulator_switch_stack for this processor"
#endif
    ".size emulator_switch_stack, . - emulator_switch_stack\n");

namespace emulator {

class Fiber {
   public:
    // The calling stack, which waits here while others run.
    Fiber() = default;

    // A stack that begins with main(), which never returns.
    explicit Fiber(void (*main)()) {
        memory_ =
            mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory_ == MAP_FAILED) throw std::bad_alloc();
        mprotect(memory_, kGuard, PROT_NONE);
        bottom_ = static_cast<char*>(memory_) + kGuard;
        size_ = kStack;
        // What emulator_switch_stack pops: registers, whose values do not matter, and the return address.
        auto* const top = reinterpret_cast<uintptr_t*>(static_cast<char*>(memory_) + kGuard + kStack);
        top[-kReturnAddress] = reinterpret_cast<uintptr_t>(main);
        saved_ = top - kSaved;
    }

    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    ~Fiber() {
        if (memory_) munmap(memory_, kGuard + kStack);
    }

    // Continues with `next`, and returns when another fiber continues with this one.
    void go_on_with(Fiber& next) {
        left_ = this;
        __sanitizer_start_switch_fiber(&fake_stack_, next.bottom_, next.size_);
        emulator_switch_stack(&saved_, next.saved_);
        __sanitizer_finish_switch_fiber(fake_stack_, &left_->bottom_, &left_->size_);
    }

    // main() must call this first.
    static void begun() { __sanitizer_finish_switch_fiber(nullptr, &left_->bottom_, &left_->size_); }

    bool contains(const void* address) const {
        const auto* const at = static_cast<const char*>(address);
        return at >= static_cast<char*>(memory_) && at < static_cast<char*>(memory_) + kGuard + kStack;
    }

   private:
    static constexpr size_t kStack = size_t(256) << 10, kGuard = size_t(64) << 10;
#if defined(__x86_64__)
    static constexpr int kReturnAddress = 2, kSaved = 8;  // in words from the top; a call leaves the stack at 16 n + 8
#else
    static constexpr int kReturnAddress = 1, kSaved = 20;
#endif

    static inline Fiber* left_ = nullptr;  // the fiber before; only AddressSanitizer knows its stack

    void* memory_ = nullptr;  // allocated by this fiber
    void* saved_ = nullptr;   // the stack's end while others run
    const void* bottom_ = nullptr;
    size_t size_ = 0;
    void* fake_stack_ = nullptr;
};

}  // namespace emulator
