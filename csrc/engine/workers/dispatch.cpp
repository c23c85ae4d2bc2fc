#include "engine/workers/dispatch.h"

#include <stdexcept>

#if defined(FASTOPT_X86)
#include <cpuid.h>
#endif

namespace fastopt {
namespace {

struct Isa {
    const char* name;
    const KernelTable* (*table)();
    bool (*runs_here)();
};

#if defined(FASTOPT_X86)
// Features of x86-64-v3 that some compilers' __builtin_cpu_supports does not know.
bool has_f16c_movbe_lzcnt() {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_F16C) || !(c & bit_MOVBE)) return false;
    return __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & bit_LZCNT);
}

bool runs_v3() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt") && has_f16c_movbe_lzcnt();
}

bool runs_v4() {
    return runs_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#endif

const Isa isas[] = {
    {"baseline", fastopt_kernels_baseline, [] { return true; }},
#if defined(FASTOPT_X86)
    {"avx2", fastopt_kernels_avx2, runs_v3},      // -march=x86-64-v3
    {"avx512", fastopt_kernels_avx512, runs_v4},  // -march=x86-64-v4
#endif
};

const Isa* best() {
    const Isa* found = &isas[0];
    for (const Isa& isa : isas)
        if (isa.runs_here()) found = &isa;
    return found;
}

const Isa* in_use = best();

std::string join(const std::vector<std::string>& names) {
    std::string all;
    for (const auto& name : names) all += (all.empty() ? "" : ", ") + name;
    return all;
}

}  // namespace

std::vector<std::string> built_isas() {
    std::vector<std::string> names;
    for (const Isa& isa : isas) names.emplace_back(isa.name);
    return names;
}

std::vector<std::string> detected_isas() {
    std::vector<std::string> names;
    for (const Isa& isa : isas)
        if (isa.runs_here()) names.emplace_back(isa.name);
    return names;
}

std::string isa_in_use() { return kernels().isa; }

void use_isa(const std::string& name) {
    for (const Isa& isa : isas) {
        if (name != isa.name) continue;
        if (!isa.runs_here())
            throw std::invalid_argument("FASTOPT_ISA: this CPU cannot run '" + name +
                                        "', only: " + join(detected_isas()));
        in_use = &isa;
        return;
    }
    throw std::invalid_argument("FASTOPT_ISA: unknown value '" + name + "', built: " + join(built_isas()));
}

const KernelTable& kernels() { return *in_use->table(); }

}  // namespace fastopt
