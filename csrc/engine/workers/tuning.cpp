#include "engine/workers/tuning.h"

#include <algorithm>
#include <fstream>
#include <stdexcept>

#if defined(FASTOPT_X86)
#include <cpuid.h>

#include <cstring>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace fastopt {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

constexpr std::pair<const char*, int64_t Machine::*> kFields[] = {
    {"ahead", &Machine::ahead},
    {"stream_forward", &Machine::stream_forward},
    {"stream_backward", &Machine::stream_backward},
    {"grain", &Machine::grain},
};

// Tuned on Xeons with AVX-512 and on Zen 4; docs/benchmarks.md has the effect of each choice.
Machine chosen() {
    Machine m{8192, 20 * kMiB, 8 * kMiB, 16384};
    if (cpu_vendor() == "AuthenticAMD") {
        m.ahead = 0;
        m.stream_forward = m.stream_backward = std::max(last_cache() / 4, 4 * kMiB);
    }
    return m;
}

}  // namespace

std::string cpu_vendor() {
#if defined(FASTOPT_X86)
    unsigned a, words[3];
    if (!__get_cpuid(0, &a, &words[0], &words[2], &words[1])) return "";
    char name[sizeof words];
    std::memcpy(name, words, sizeof words);
    return {name, sizeof name};
#else
    return "";
#endif
}

int64_t last_cache() {
    // Asks the system first: a virtual machine's CPU may report caches that the machine has no share in.
    for (const char* level : {"3", "2"}) {
        std::ifstream file(std::string("/sys/devices/system/cpu/cpu0/cache/index") + level + "/size");
        int64_t size = 0;
        char unit = 0;
        if (file >> size) return file >> unit && unit == 'K' ? size << 10 : unit == 'M' ? size << 20 : size;
    }
#if defined(_SC_LEVEL3_CACHE_SIZE)
    for (const int level : {_SC_LEVEL3_CACHE_SIZE, _SC_LEVEL2_CACHE_SIZE})
        if (const long bytes = sysconf(level); bytes > 0) return bytes;
#endif
    return 0;
}

Machine machine = chosen();

void tune(const std::string& name, int64_t value) {
    for (const auto& [known, field] : kFields) {
        if (name != known) continue;
        if (value < 0) throw std::invalid_argument("FASTOPT_TUNING: " + name + " cannot be negative");
        machine.*field = value;
        return;
    }
    std::string all;
    for (const auto& [known, field] : kFields) all += (all.empty() ? "" : ", ") + std::string(known);
    throw std::invalid_argument("FASTOPT_TUNING: unknown name '" + name + "', known: " + all);
}

std::vector<std::pair<std::string, int64_t>> tuning() {
    std::vector<std::pair<std::string, int64_t>> values;
    for (const auto& [name, field] : kFields) values.emplace_back(name, machine.*field);
    return values;
}

}  // namespace fastopt
