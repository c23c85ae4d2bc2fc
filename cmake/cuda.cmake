# The kernels for CUDA, or their absence. Sets FASTOPT_CUDA_SOURCES and FASTOPT_CUDA_ARCHITECTURES.
set(FASTOPT_CUDA_PARTS 0 1 2 3)  # of rules.cu: kParts in csrc/cuda/rule_parts.h
set(FASTOPT_CUDA_FILES
  adafactor device dropout dropout_across dropout_mask dropout_sums norm_apply norm_channels norm_columns norm_gradient
  norm_planes reductions settle)
set(FASTOPT_CUDA_SOURCES csrc/cuda/no_cuda.cpp)
set(FASTOPT_CUDA_ARCHITECTURES "")

if(NOT FASTOPT_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "FASTOPT_CUDA is '${FASTOPT_CUDA}': AUTO, ON and OFF are known")
endif()
if(FASTOPT_CUDA STREQUAL "OFF")
  message(STATUS "fastopt: without CUDA (FASTOPT_CUDA=OFF)")
  return()
endif()

# A100 and its relatives, H100 and H200; newer ones translate the last for themselves when it is loaded.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(FASTOPT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FASTOPT_CUDA=ON, but no working nvcc was found: set CUDACXX to its path")
  endif()
  message(STATUS "fastopt: without CUDA (no working nvcc was found; CUDACXX may name one)")
  return()
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)  # the module loads where there is no CUDA
list(JOIN CMAKE_CUDA_ARCHITECTURES " " FASTOPT_CUDA_ARCHITECTURES)
set(fastopt_cuda_reason "FASTOPT_CUDA=ON")
if(FASTOPT_CUDA STREQUAL "AUTO")
  set(fastopt_cuda_reason "nvcc was found; for a torch without CUDA set FASTOPT_CUDA=OFF, which halves the time")
endif()
message(STATUS
  "fastopt: with CUDA ${CMAKE_CUDA_COMPILER_VERSION} for ${FASTOPT_CUDA_ARCHITECTURES} (${fastopt_cuda_reason})")

set(FASTOPT_CUDA_FLAGS -O3 -fmad=false)  # no contraction, as on the CPU
if(FASTOPT_WERROR)
  list(APPEND FASTOPT_CUDA_FLAGS --Werror=all-warnings -Xcompiler=-Wall,-Wextra,-Werror)
endif()

# An object library per part, and one for the rest, so that a build uses several cores.
function(fastopt_cuda_objects name file)
  add_library(cuda_${name} OBJECT csrc/cuda/${file}.cu)
  target_compile_options(cuda_${name} PRIVATE ${FASTOPT_CUDA_FLAGS})
  target_compile_definitions(cuda_${name} PRIVATE ${ARGN})
endfunction()

set(FASTOPT_CUDA_SOURCES csrc/cuda/update.cpp)
foreach(part IN LISTS FASTOPT_CUDA_PARTS)
  fastopt_cuda_objects(rules_${part} rules FASTOPT_PART=${part})
  list(APPEND FASTOPT_CUDA_SOURCES $<TARGET_OBJECTS:cuda_rules_${part}>)
endforeach()
foreach(file IN LISTS FASTOPT_CUDA_FILES)
  fastopt_cuda_objects(${file} ${file})
  list(APPEND FASTOPT_CUDA_SOURCES $<TARGET_OBJECTS:cuda_${file}>)
endforeach()
