# _emulated: the same module, whose .cu files g++ compiles with this folder's emulator. FASTOPT_EMULATOR=ON adds
# AddressSanitizer and UndefinedBehaviorSanitizer; python needs LD_PRELOAD=libasan.so, which make test sets. With RACES
# kernels report their accesses to races.cpp, which takes the place of ThreadSanitizer: nothing links that.
set(emulated_sources tests/emulator/emulator.cpp tests/emulator/host_memory.cpp tests/emulator/races.cpp
  csrc/cuda/optim/update.cpp)
set(emulated_kernels "")
function(fastopt_emulated name file definition)
  set(path ${CMAKE_CURRENT_BINARY_DIR}/emulated/${name}.cpp)
  file(CONFIGURE OUTPUT ${path} CONTENT "${definition}\n#include \"${CMAKE_CURRENT_SOURCE_DIR}/csrc/cuda/${file}.cu\"\n")
  set(emulated_kernels ${emulated_kernels} ${path} PARENT_SCOPE)
endfunction()
foreach(part IN LISTS FASTOPT_CUDA_PARTS)
  fastopt_emulated(rules_${part} optim/rules "#define FASTOPT_PART ${part}")
endforeach()
foreach(file IN LISTS FASTOPT_CUDA_FILES)
  string(REPLACE "/" "_" name ${file})
  fastopt_emulated(${name} ${file} "")
endforeach()

fastopt_module(_emulated ${emulated_sources} ${emulated_kernels})
target_include_directories(_emulated PRIVATE tests/emulator)
target_compile_options(_emulated PRIVATE -O1 -g1)
if(FASTOPT_EMULATOR STREQUAL "RACES")
  # With it, g++ 12 takes operands that are read only where they were loaded for uninitialised ones.
  set_source_files_properties(${emulated_kernels} PROPERTIES
    COMPILE_OPTIONS "-fsanitize=thread;-Wno-maybe-uninitialized")
else()
  set(sanitizers -fsanitize=address,undefined -fno-sanitize-recover=undefined)
  target_compile_options(_emulated PRIVATE ${sanitizers})
  target_link_options(_emulated PRIVATE ${sanitizers})
endif()
