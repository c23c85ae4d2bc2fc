# The CPU's kernels: one object library per ISA from the same source. Never use link-time optimisation: it would merge
# them.
function(fastopt_kernels isa)
  add_library(kernels_${isa} OBJECT csrc/cpu/kernels.cpp)
  target_compile_definitions(kernels_${isa} PRIVATE FASTOPT_ISA=${isa})
  target_compile_options(kernels_${isa} PRIVATE -O3 ${FASTOPT_FLOAT_FLAGS} ${FASTOPT_WARNINGS} ${ARGN})
  set_target_properties(kernels_${isa} PROPERTIES INTERPROCEDURAL_OPTIMIZATION OFF)
  set(FASTOPT_ISAS ${FASTOPT_ISAS} ${isa} PARENT_SCOPE)
endfunction()

fastopt_kernels(baseline)
if(FASTOPT_X86)
  fastopt_kernels(avx2 -march=x86-64-v3)
  fastopt_kernels(avx512 -march=x86-64-v4)
endif()
