# The kernels for CUDA, or their absence. Sets FASTOPT_CUDA_SOURCES, FASTOPT_CUDA_ARCHITECTURES and FASTOPT_CUDA_REASON,
# which info() shows, because pip hides CMake's messages.
# rules.cu is compiled in the number of parts that its header states.
file(STRINGS csrc/cuda/optim/rule_parts.h parts REGEX "constexpr int kParts = [0-9]+")
string(REGEX REPLACE ".*kParts = ([0-9]+).*" "\\1" parts "${parts}")
set(FASTOPT_CUDA_PARTS "")
foreach(part RANGE 1 ${parts})
  math(EXPR part "${part} - 1")
  list(APPEND FASTOPT_CUDA_PARTS ${part})
endforeach()
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS csrc/cuda/optim/rule_parts.h)
set(FASTOPT_CUDA_FILES
  device dropout/across dropout/dropout dropout/mask dropout/sums norm/apply norm/channels norm/columns
  norm/gradient norm/planes norm/row_columns norm/row_gradient norm/rows
  optim/adafactor optim/reductions optim/scalars optim/statistics upload
  vectors/combination vectors/history vectors/solve vectors/vectors)
set(FASTOPT_CUDA_SOURCES csrc/cuda/no_cuda.cpp)
set(FASTOPT_CUDA_ARCHITECTURES "")
set(FASTOPT_NO_NVCC "no working nvcc of CUDA 12 or later was found")

if(NOT FASTOPT_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "fastopt: FASTOPT_CUDA is '${FASTOPT_CUDA}'; it may be AUTO (with CUDA where the torch that is installed has it), ON or OFF")
endif()

macro(fastopt_without_cuda reason)
  set(FASTOPT_CUDA_REASON "${reason}")
  message(STATUS
    "fastopt: without CUDA: ${reason}. It takes about 2 minutes of a core's time. "
    "With CUDA: FASTOPT_CUDA=ON pip install --force-reinstall --no-deps .")
  return()
endmacro()

if(FASTOPT_CUDA STREQUAL "OFF")
  fastopt_without_cuda("FASTOPT_CUDA=OFF")
endif()

set(FASTOPT_CUDA_REASON "FASTOPT_CUDA=ON")
if(FASTOPT_CUDA STREQUAL "AUTO")
  # pip builds with the environment's interpreter and hides the environment's packages through PYTHONPATH, which -E
  # ignores. The first call is for builds without isolation, which may have torch on PYTHONPATH.
  foreach(option -B -EB)
    execute_process(COMMAND "${Python_EXECUTABLE}" ${option} "${CMAKE_CURRENT_LIST_DIR}/torch_build.py"
      OUTPUT_VARIABLE torch OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    if(torch)
      break()
    endif()
  endforeach()
  if(NOT torch)
    fastopt_without_cuda("FASTOPT_CUDA=AUTO, and no torch was found where fastopt was built")
  endif()
  string(REPLACE " " ";" torch "${torch}")
  list(GET torch 0 version)
  list(GET torch 1 cuda)
  if(cuda STREQUAL "none")
    fastopt_without_cuda("FASTOPT_CUDA=AUTO, and torch ${version}, which was installed, is a build without CUDA")
  endif()
  set(FASTOPT_CUDA_REASON "FASTOPT_CUDA=AUTO, and torch ${version}, which was installed, is a build for CUDA ${cuda}")
endif()

# A100 and its relatives, H100 and H200. Newer GPUs compile the last architecture's PTX when the module is loaded.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
endif()
include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  enable_language(CUDA)
endif()
if(NOT CMAKE_CUDA_COMPILER OR CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12)
  unset(CMAKE_CUDA_COMPILER CACHE)  # so that the next run looks for it again
  if(FASTOPT_CUDA STREQUAL "ON")
    message(FATAL_ERROR
      "fastopt: FASTOPT_CUDA=ON, but ${FASTOPT_NO_NVCC}: install a CUDA toolkit, or set CUDACXX to the path of its nvcc; or "
      "install without CUDA: FASTOPT_CUDA=OFF pip install . (Why an nvcc that is there does not work is in the logs of "
      "${CMAKE_BINARY_DIR}/CMakeFiles/CheckCUDA/CMakeFiles.)")
  endif()
  fastopt_without_cuda("${FASTOPT_CUDA_REASON}, but ${FASTOPT_NO_NVCC} (CUDACXX may name one)")
endif()
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)  # so that the module loads on machines without CUDA
list(JOIN CMAKE_CUDA_ARCHITECTURES " " FASTOPT_CUDA_ARCHITECTURES)
message(STATUS
  "fastopt: with CUDA ${CMAKE_CUDA_COMPILER_VERSION} for ${FASTOPT_CUDA_ARCHITECTURES}: ${FASTOPT_CUDA_REASON}. "
  "It takes about 4 minutes of a core's time. Without CUDA: FASTOPT_CUDA=OFF pip install --force-reinstall --no-deps .")

set(FASTOPT_CUDA_FLAGS -O3 -fmad=false)  # no contraction, as on the CPU
list(APPEND FASTOPT_CUDA_FLAGS -Xfatbin=-compress-all)  # else 33 KB of zeros per kernel, the parameters, are stored
if(FASTOPT_WERROR)
  list(APPEND FASTOPT_CUDA_FLAGS --Werror=all-warnings -Xcompiler=-Wall,-Wextra,-Werror)
endif()

# One object library per part and per file, so that a build uses several cores.
function(fastopt_cuda_objects name file)
  add_library(cuda_${name} OBJECT csrc/cuda/${file}.cu)
  target_compile_options(cuda_${name} PRIVATE ${FASTOPT_CUDA_FLAGS})
  target_compile_definitions(cuda_${name} PRIVATE ${ARGN})
endfunction()

set(FASTOPT_CUDA_SOURCES csrc/cuda/optim/update.cpp)
foreach(part IN LISTS FASTOPT_CUDA_PARTS)
  fastopt_cuda_objects(rules_${part} optim/rules FASTOPT_PART=${part})
  list(APPEND FASTOPT_CUDA_SOURCES $<TARGET_OBJECTS:cuda_rules_${part}>)
endforeach()
foreach(file IN LISTS FASTOPT_CUDA_FILES)
  string(REPLACE "/" "_" name ${file})
  fastopt_cuda_objects(${name} ${file})
  list(APPEND FASTOPT_CUDA_SOURCES $<TARGET_OBJECTS:cuda_${name}>)
endforeach()
