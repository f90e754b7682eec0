# The services' message code, and their descriptors for reflection, made at build time.
#
# sl_proto: protoc-c's C for our .proto files and for Debian's health and reflection (package
# grpc-proto), plus one C array `sl_proto_descriptors` with the FileDescriptorSet of all of them.
# Generated code is not held to our warnings; everybody includes it as <name>.pb-c.h.
find_program(PROTOC protoc REQUIRED)
find_program(PROTOC_C protoc-c REQUIRED)
find_path(GRPC_PROTO_DIR grpc/health/v1/health.proto
          PATHS /usr/share/grpc-proto /usr/local/share/grpc-proto REQUIRED)

set(proto_out ${CMAKE_BINARY_DIR}/proto)
set(proto_ours vllm_engine.proto smg_common.proto sluice.proto open_inference.proto)
set(proto_debian grpc/health/v1/health.proto grpc/reflection/v1/reflection.proto
                 grpc/reflection/v1alpha/reflection.proto)
file(MAKE_DIRECTORY ${proto_out})

set(proto_c "")
set(proto_inputs "")
foreach(proto ${proto_ours} ${proto_debian})
  set(folder ${CMAKE_SOURCE_DIR}/proto)
  if(proto IN_LIST proto_debian)
    set(folder ${GRPC_PROTO_DIR})
  endif()
  string(REPLACE ".proto" ".pb-c" stem ${proto})
  list(APPEND proto_inputs ${folder}/${proto})
  # v1alpha is for the descriptor only: its messages are v1's, byte for byte.
  if(NOT proto MATCHES "v1alpha")
    add_custom_command(
      OUTPUT ${proto_out}/${stem}.c ${proto_out}/${stem}.h
      COMMAND ${PROTOC_C} --c_out=${proto_out} -I${CMAKE_SOURCE_DIR}/proto -I${GRPC_PROTO_DIR} ${proto}
      DEPENDS ${folder}/${proto} VERBATIM)
    list(APPEND proto_c ${proto_out}/${stem}.c)
  endif()
endforeach()

add_custom_command(
  OUTPUT ${proto_out}/descriptors.pb
  COMMAND ${PROTOC} -I${CMAKE_SOURCE_DIR}/proto -I${GRPC_PROTO_DIR} --include_imports
          --descriptor_set_out=${proto_out}/descriptors.pb ${proto_ours} ${proto_debian}
  DEPENDS ${proto_inputs} VERBATIM)
add_custom_command(
  OUTPUT ${proto_out}/descriptors.c
  COMMAND ${CMAKE_COMMAND} -DINPUT=${proto_out}/descriptors.pb -DOUTPUT=${proto_out}/descriptors.c
          -DNAME=sl_proto_descriptors -P ${CMAKE_SOURCE_DIR}/cmake/embed.cmake
  DEPENDS ${proto_out}/descriptors.pb ${CMAKE_SOURCE_DIR}/cmake/embed.cmake VERBATIM)

add_library(sl_proto STATIC ${proto_c} ${proto_out}/descriptors.c)
target_compile_options(sl_proto PRIVATE -w)
target_include_directories(sl_proto SYSTEM PUBLIC ${proto_out})
target_link_libraries(sl_proto PUBLIC PkgConfig::PROTOBUF_C)
