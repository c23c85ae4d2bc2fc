// What the emulator knows of a thread that runs, waits or has ended.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include "device_api.h"
#include "fiber.h"

namespace emulator {

// What a thread waits for: all threads of the block, or the lanes of the mask, at the same call.
struct Meeting {
    const char* function;
    Site site;
    bool of_block;
    unsigned mask;
    bool is_barrier = false;  // for memory

    bool operator==(const Meeting& other) const {
        return mask == other.mask && site.line == other.site.line && std::strcmp(function, other.function) == 0 &&
               std::strcmp(site.file, other.site.file) == 0;
    }

    std::string describe() const {
        char arguments[16] = "()";
        if (!of_block) std::snprintf(arguments, sizeof(arguments), "(0x%08x)", mask);
        return std::string(function) + arguments + " at " + site.file + ":" + std::to_string(site.line);
    }
};

struct Thread {
    enum State { ready, waits, ended };

    State state;
    Fiber* fiber;  // null before the thread begins and after it ends
    Meeting meeting;
    uint64_t given, taken;  // in a shuffle: the thread's own value, and the source's
    unsigned source;
    bool says;       // in a vote
    unsigned votes;  // the lanes that vote yes
};

}  // namespace emulator
