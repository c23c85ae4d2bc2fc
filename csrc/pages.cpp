#include "pages.h"

#include <stdint.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastopt {

void expect_first_write([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    // From this size on glibc's malloc takes fresh memory from the system each time.
    constexpr size_t kMapped = size_t{32} << 20, kHuge = size_t{2} << 20;
    if (bytes < kMapped) return;
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHuge - 1) / kHuge * kHuge;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHuge * kHuge;
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a wish: failure costs only time
#endif
}

}  // namespace fastopt
