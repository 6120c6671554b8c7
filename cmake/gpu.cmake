# What a GPU build would need: CUDA's compiler and NCCL, each AUTO (found or not, the default), ON
# (needed: not finding it is an error) or OFF (not looked for). A compiler counts as found when it
# compiles with this machine's host compiler. Sets STRATA_HAVE_CUDA and STRATA_HAVE_NCCL and prints a
# line for each. No source of this tree is built with NCCL yet, and its line says so.
# STRATA_EMULATION: whether the kernels are built for the emulator too, which needs no GPU; not under
# ThreadSanitizer and not for the fuzzers, which know nothing of its fibers.
include(CheckLanguage)
foreach(part CUDA NCCL)
  set(STRATA_${part} AUTO CACHE STRING "${part}: AUTO, ON or OFF")
  set_property(CACHE STRATA_${part} PROPERTY STRINGS AUTO ON OFF)
  if(NOT STRATA_${part} MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "STRATA_${part} is '${STRATA_${part}}': AUTO, ON and OFF are known")
  endif()
endforeach()

# strata_gpu_report(PART HAVE WHAT): sets STRATA_HAVE_PART to ON or OFF and prints what was found, or
# stops where a part that was asked for was not.
function(strata_gpu_report part have what)
  set(STRATA_HAVE_${part} ${have} PARENT_SCOPE)
  if(have)
    message(STATUS "${part}: ${what}")
  elseif(STRATA_${part} STREQUAL "ON")
    message(FATAL_ERROR "STRATA_${part} is ON: ${what}")
  else()
    message(STATUS "${part}: ${what}; Strata runs on CPUs")
  endif()
endfunction()

if(STRATA_CUDA STREQUAL "OFF")
  strata_gpu_report(CUDA OFF "off")
else()
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE version ERROR_QUIET)
    string(REGEX MATCH "release ([0-9.]+)" version "${version}")
    strata_gpu_report(CUDA ON "${version} (${CMAKE_CUDA_COMPILER})")
    set(CMAKE_CUDA_ARCHITECTURES 80 90a-real)
    enable_language(CUDA)
  else()
    strata_gpu_report(CUDA OFF "no compiler that works was found (CUDACXX names another)")
  endif()
endif()

# NCCL is of no use without CUDA, whose headers its own names.
if(STRATA_NCCL STREQUAL "OFF")
  strata_gpu_report(NCCL OFF "off")
elseif(NOT STRATA_HAVE_CUDA)
  strata_gpu_report(NCCL OFF "not looked for without CUDA")
else()
  get_filename_component(cuda_folder ${CMAKE_CUDA_COMPILER} DIRECTORY)
  get_filename_component(cuda_folder ${cuda_folder} DIRECTORY)
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${NCCL_HOME} $ENV{NCCL_HOME} ${cuda_folder}
    PATH_SUFFIXES include)
  find_library(NCCL_LIBRARY nccl HINTS ${NCCL_HOME} $ENV{NCCL_HOME} ${cuda_folder}
    PATH_SUFFIXES lib lib64)
  mark_as_advanced(NCCL_INCLUDE_DIR NCCL_LIBRARY)
  if(NCCL_INCLUDE_DIR AND NCCL_LIBRARY)
    file(STRINGS ${NCCL_INCLUDE_DIR}/nccl.h lines REGEX "define NCCL_(MAJOR|MINOR|PATCH) ")
    string(REGEX REPLACE "[^0-9;]" "" numbers "${lines}")
    string(REPLACE ";" "." version "${numbers}")
    strata_gpu_report(NCCL ON
      "${version} (${NCCL_LIBRARY}); nothing in this tree is built with it yet")
  else()
    strata_gpu_report(NCCL OFF "nccl.h or its library was not found (NCCL_HOME names their folder)")
  endif()
endif()

set(STRATA_EMULATION ON)
if(STRATA_FUZZ OR STRATA_SANITIZE STREQUAL "thread")
  set(STRATA_EMULATION OFF)
endif()

# What .cu files are compiled with for it: the compiler's calls at each access, which the emulator
# defines itself (kernels/emulation/access.h), so not beside AddressSanitizer.
set(strata_emulated_options -Wno-unknown-pragmas)
if(NOT STRATA_SANITIZE)
  list(APPEND strata_emulated_options -fsanitize=thread --param=tsan-instrument-func-entry-exit=0)
endif()

# What a target of .cu files is compiled with by nvcc: no contraction, as everywhere; code for compute
# capability 8.0 and 9.0, and PTX of 8.0 for what else is up from there. A target of files that need
# 9.0 (TMA, wgmma) has that code alone. cubins/ keeps what tests/gpu_gate.py looks at.
function(strata_cuda_flags target)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 -fmad=false -lineinfo -Werror all-warnings
      -Xptxas=-v
      -Xcompiler=-Wall,-Wextra,-fvisibility=hidden>)
  set_target_properties(${target} PROPERTIES CUDA_RUNTIME_LIBRARY Static
    CUDA_COMPILER_LAUNCHER "${CMAKE_SOURCE_DIR}/cmake/nvcc_logged.sh;${CMAKE_BINARY_DIR}/cubins")
endfunction()
