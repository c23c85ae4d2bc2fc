// The place in the source that a return address belongs to, as addr2line of the binutils finds it.
#pragma once

#include <dlfcn.h>

#include <cstdio>
#include <sstream>
#include <string>

namespace emulator {

struct Place {
    std::string lines;     // from the innermost function that was inlined to the outermost
    std::string function;  // the outermost
};

inline Place place_of(const void* return_address) {
    const char* const where = static_cast<const char*>(return_address) - 1;
    Dl_info module{};
    if (!dladdr(where, &module)) return {"?", "?"};
    std::ostringstream offset;
    offset << "0x" << std::hex << where - static_cast<const char*>(module.dli_fbase);
    const std::string file = module.dli_fname, command = "addr2line -Cfi -e '" + file + "' " + offset.str();
    std::stringstream output;
    if (FILE* const pipe = popen(command.c_str(), "r")) {
        char part[4096];
        while (const size_t n = std::fread(part, 1, sizeof(part), pipe)) output.write(part, std::streamsize(n));
        pclose(pipe);
    }
    Place place;
    for (std::string function, line; std::getline(output, function) && std::getline(output, line);) {
        line = line.substr(0, line.find(" ("));  // "(discriminator 2)"
        place.lines += (place.lines.empty() ? "" : " < ") + line.substr(line.rfind('/') + 1);
        place.function = function;
    }
    return place.lines.empty() ? Place{file + "+" + offset.str(), "?"} : place;
}

}  // namespace emulator
