# The C++ compiler: checks that it exists and is new enough, and puts ccache before it.
set(FASTOPT_COMPILERS "GCC 11, Clang 12 or a later one")

if(NOT DEFINED CMAKE_CXX_COMPILER)
  include(CheckLanguage)
  check_language(CXX)
  if(NOT CMAKE_CXX_COMPILER)
    unset(CMAKE_CXX_COMPILER CACHE)  # so that the next run looks for it again
    if(DEFINED ENV{CXX})
      set(named " (CXX is '$ENV{CXX}')")
    endif()
    message(FATAL_ERROR
      "fastopt: no working C++ compiler was found${named}. ${FASTOPT_COMPILERS} is needed: install one (Debian, Ubuntu: "
      "apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install), or set CXX to the path of one.")
  endif()
endif()
enable_language(CXX)

set(FASTOPT_COMPILER_NAME "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
function(fastopt_compiler_too_old what)
  message(FATAL_ERROR
    "fastopt: the C++ compiler is too old: ${FASTOPT_COMPILER_NAME} (${CMAKE_CXX_COMPILER}) does not know ${what}. "
    "${FASTOPT_COMPILERS} is needed. Where another one is installed, CXX names it: CXX=g++-12 pip install .")
endfunction()
if(NOT "cxx_std_17" IN_LIST CMAKE_CXX_COMPILE_FEATURES)
  fastopt_compiler_too_old("C++17")
endif()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND NOT APPLE)
  set(FASTOPT_X86 ON)
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(-march=x86-64-v4 FASTOPT_COMPILES_AVX512)
  if(NOT FASTOPT_COMPILES_AVX512)
    fastopt_compiler_too_old("-march=x86-64-v4")
  endif()
endif()

# A launcher that the user sets, even an empty one, is respected. A ccache that cannot write its cache is not used.
if(NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER AND NOT DEFINED ENV{CMAKE_CXX_COMPILER_LAUNCHER})
  find_program(FASTOPT_CCACHE ccache)
  if(FASTOPT_CCACHE)
    set(trial "${CMAKE_CURRENT_BINARY_DIR}/ccache_trial")
    file(WRITE "${trial}.cpp" "int main() {}\n")
    execute_process(COMMAND "${FASTOPT_CCACHE}" "${CMAKE_CXX_COMPILER}" -c "${trial}.cpp" -o "${trial}.o"
      RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
    if(failed)
      message(STATUS "fastopt: ${FASTOPT_CCACHE} does not work here, and is not used")
    else()
      set(CMAKE_CXX_COMPILER_LAUNCHER "${FASTOPT_CCACHE}")
      set(CMAKE_CUDA_COMPILER_LAUNCHER "${FASTOPT_CCACHE}")
      message(STATUS "fastopt: compiled through ${FASTOPT_CCACHE} (not so with CMAKE_CXX_COMPILER_LAUNCHER= in the environment)")
    endif()
  endif()
endif()
