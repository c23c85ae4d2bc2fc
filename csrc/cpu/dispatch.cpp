#include "dispatch.h"

#include <stdexcept>

namespace fastopt {
namespace {

struct Isa {
    const char* name;
    const KernelTable* (*table)();
    bool (*runs_here)();
};

const Isa isas[] = {
    {"baseline", fastopt_kernels_baseline, [] { return true; }},
#if defined(FASTOPT_X86)
    // The features of x86-64-v3 and -v4 the compiler may use beyond the one in the name.
    {"avx2", fastopt_kernels_avx2,
     [] {
         __builtin_cpu_init();
         return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
     }},
    {"avx512", fastopt_kernels_avx512,
     [] {
         __builtin_cpu_init();
         return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("avx512f") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
     }},
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
