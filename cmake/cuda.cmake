# The GPU's kernels: each kernels/gpu/X.cu is compiled by nvcc to a fatbin, which is embedded as bytes (kernels/cuda/images.h).
# Nothing else needs nvcc, and nothing is linked with what comes with it; without it the program has no kernels and says so.
#
# SLUICE_CUDA: AUTO takes nvcc from PATH or from CUDA_PATH when it is there (an instrumented build has no use for kernels, so AUTO
# leaves them out); ON insists on it; OFF does without. A file is compiled when it, a header that it includes or the flags change;
# with SLUICE_CUDA_CACHE what was made of the same text before, by the same nvcc, is taken from that folder.
set(SLUICE_CUDA AUTO CACHE STRING "AUTO, ON or OFF: kernels for NVIDIA's GPUs, by nvcc")
set(SLUICE_CUDA_ALSO "" CACHE STRING "further architectures that kernels are made for: 100a")
set(SLUICE_CUDA_CACHE "" CACHE PATH "folder of fatbins made before; empty: none")
set_property(CACHE SLUICE_CUDA PROPERTY STRINGS AUTO ON OFF)
if(NOT SLUICE_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "SLUICE_CUDA is \"${SLUICE_CUDA}\": it is AUTO, ON or OFF")
endif()

# Looked for each time: a build folder may be configured again on a machine that has come to have it, or where it went.
unset(SLUICE_NVCC CACHE)
set(cuda_out ${CMAKE_BINARY_DIR}/cuda)
if(SLUICE_CUDA STREQUAL "OFF")
  set(cuda_made "no kernels (built with SLUICE_CUDA=OFF)")
elseif(SLUICE_CUDA STREQUAL "AUTO" AND (SLUICE_SANITIZE OR SLUICE_FUZZ))
  set(cuda_made "no kernels (an instrumented build)")
else()
  find_program(SLUICE_NVCC nvcc HINTS ENV CUDA_PATH PATH_SUFFIXES bin NO_CMAKE_SYSTEM_PATH) # PATH, and nowhere else
  set(cuda_made "no kernels (nvcc was not there at build time)")
  if(SLUICE_CUDA STREQUAL "ON" AND NOT SLUICE_NVCC)
    message(FATAL_ERROR "SLUICE_CUDA=ON and there is no nvcc in PATH or CUDA_PATH: install CUDA's toolkit 13.0 or newer")
  endif()
endif()

if(SLUICE_NVCC)
  execute_process(COMMAND ${SLUICE_NVCC} --version OUTPUT_VARIABLE said ERROR_QUIET)
  string(REGEX MATCH "V([0-9]+)\\.([0-9]+)\\.[0-9]+" nvcc_version "${said}")
  if(NOT nvcc_version OR CMAKE_MATCH_1 LESS 13)
    if(SLUICE_CUDA STREQUAL "ON")
      message(FATAL_ERROR "${SLUICE_NVCC} is \"${nvcc_version}\": the kernels need nvcc 13.0 or newer")
    endif()
    set(cuda_made "no kernels (nvcc was older than 13.0 at build time)")
    set(SLUICE_NVCC "")
  endif()
endif()

if(SLUICE_NVCC)
  string(SUBSTRING ${nvcc_version} 1 -1 nvcc_version)
  set(made_for 80 90a ${SLUICE_CUDA_ALSO})
  list(JOIN made_for " sm_" cuda_made)
  set(cuda_made "nvcc ${nvcc_version}: sm_${cuda_made} PTX 80")
  execute_process(COMMAND ${SLUICE_NVCC} --dryrun -E none.cu OUTPUT_QUIET ERROR_VARIABLE said)
  if(said MATCHES "INCLUDES=\"-I([^\"]+)\"") # where nvcc itself has its headers from
    set(cuda_include ${CMAKE_MATCH_1})
  endif()
  file(MAKE_DIRECTORY ${cuda_out})
  file(WRITE ${cuda_out}/nvcc-version ${nvcc_version}) # for the lint
  # No contraction and no shortcuts: the bits are those of kernels/ref. X_sm90a.cu is for that architecture only (wgmma).
  set(nvcc_flags -O3 -fmad=false -std=c++17 -I${CMAKE_SOURCE_DIR} -Xptxas=-v,-warn-spills)
  set(ptx_80 -gencode=arch=compute_80,code=compute_80)
else()
  file(REMOVE ${cuda_out}/nvcc-version)
endif()
message(STATUS "cuda: ${cuda_made}")

# Images of these files: PREFIX_objects, C files with their bytes; PREFIX_names and PREFIX_rows, for a table of them (images.h);
# PREFIX_ptx, their PTX for the lowest architecture that they are for, which nothing but tests/gpu/ptx wants.
function(cuda_images prefix)
  set(objects "")
  set(names "")
  set(rows "")
  set(ptx "")
  foreach(source ${ARGN})
    if(NOT SLUICE_NVCC)
      break()
    endif()
    get_filename_component(name ${source} NAME_WE)
    set(targets ${ptx_80})
    set(lowest 80)
    foreach(architecture ${made_for})
      list(APPEND targets -gencode=arch=compute_${architecture},code=sm_${architecture})
    endforeach()
    if(name MATCHES "_sm(90a|100a)$")
      set(lowest ${CMAKE_MATCH_1})
      set(targets -gencode=arch=compute_${lowest},code=sm_${lowest})
    endif()
    set(made ${cuda_out}/${name})
    set(flags ${nvcc_flags} ${targets})
    add_custom_command(
      OUTPUT ${made}.fatbin BYPRODUCTS ${made}.ptxas DEPFILE ${made}.d
      COMMAND ${CMAKE_COMMAND} -DNVCC=${SLUICE_NVCC} "-DFLAGS=${flags}" -DROOT=${CMAKE_SOURCE_DIR} -DINPUT=${source} -DOUTPUT=${made} -DVERSION=${nvcc_version}
              -DCACHE=${SLUICE_CUDA_CACHE} -P ${CMAKE_SOURCE_DIR}/cmake/nvcc.cmake
      DEPENDS ${source} ${CMAKE_SOURCE_DIR}/cmake/nvcc.cmake COMMENT "nvcc ${name}.cu" VERBATIM)
    add_custom_command(
      OUTPUT ${made}.c
      COMMAND ${CMAKE_COMMAND} -DINPUT=${made}.fatbin -DOUTPUT=${made}.c -DNAME=sl_gpu_image_${name}
              -P ${CMAKE_SOURCE_DIR}/cmake/embed.cmake
      DEPENDS ${made}.fatbin ${CMAKE_SOURCE_DIR}/cmake/embed.cmake VERBATIM)
    add_custom_command(
      OUTPUT ${made}.ptx DEPFILE ${made}.ptx.d
      COMMAND ${SLUICE_NVCC} ${nvcc_flags} -gencode=arch=compute_${lowest},code=compute_${lowest} -ptx -MD -MF ${made}.ptx.d -o ${made}.ptx ${source}
      DEPENDS ${source} COMMENT "nvcc -ptx ${name}.cu" VERBATIM)
    list(APPEND ptx ${made}.ptx)
    list(APPEND objects ${made}.c)
    string(APPEND names "extern const uint8_t sl_gpu_image_${name}[];\nextern const size_t sl_gpu_image_${name}_bytes;\n")
    string(APPEND rows "    {\"${name}\", sl_gpu_image_${name}, &sl_gpu_image_${name}_bytes},\n")
  endforeach()
  # One row more than there are images: C has no empty arrays.
  string(APPEND rows "    {NULL, NULL, NULL},\n")
  string(REGEX MATCHALL "&" count "${rows}")
  list(LENGTH count count)
  set(${prefix}_objects "${objects}" PARENT_SCOPE)
  set(${prefix}_ptx "${ptx}" PARENT_SCOPE)
  set(${prefix}_names "${names}" PARENT_SCOPE)
  set(${prefix}_rows "${rows}" PARENT_SCOPE)
  set(${prefix}_count ${count} PARENT_SCOPE)
endfunction()

file(GLOB cuda_sources CONFIGURE_DEPENDS kernels/gpu/*.cu)
cuda_images(cuda ${cuda_sources})
file(CONFIGURE OUTPUT ${cuda_out}/images.c @ONLY CONTENT [[
/* Made by cmake/cuda.cmake. */
#include "kernels/cuda/images.h"
@cuda_names@
const struct sl_gpu_image sl_gpu_images[] = {
@cuda_rows@};
const uint32_t sl_gpu_n_images = @cuda_count@, sl_gpu_least_capability = 80;
const char *const sl_gpu_images_made = "@cuda_made@";
]])
list(APPEND cuda_objects ${cuda_out}/images.c)

# The probe's (tests/gpu/probe): a table of its own, which the program does not carry.
file(GLOB probe_sources CONFIGURE_DEPENDS tests/gpu/probe/*.cu)
cuda_images(probe ${probe_sources})
file(CONFIGURE OUTPUT ${cuda_out}/probe_images.c @ONLY CONTENT [[
/* Made by cmake/cuda.cmake. */
#include "tests/gpu/probe/images.h"
@probe_names@
const struct sl_gpu_image probe_images[] = {
@probe_rows@};
const uint32_t probe_n_images = @probe_count@;
]])
list(APPEND probe_objects ${cuda_out}/probe_images.c)

add_custom_target(ptx DEPENDS ${cuda_ptx} ${probe_ptx})
