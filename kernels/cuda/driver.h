/* NVIDIA's driver, as far as we use it: a table of its functions, filled from libcuda.so.1 when a device is asked for. The
 * program is not linked with it, so one binary runs with and without a GPU, and no header of NVIDIA's is needed to build: the
 * prototypes are our own, and abi_check.c compares them with cuda.h where that is there.
 *
 * The table can be filled by others, too: kernels/cuda/twin.h is a GPU that is not there, behind the same functions. Whoever
 * works with a GPU takes the table as an argument and does not know which it is.
 *
 * Errors: every function returns a result of the driver; sl_cu_check makes a sentence of it. Work is late, so an error may be
 * told by a call that has nothing to do with it. After a final one (sl_cu_is_final) each further call of the process fails:
 * what was on the GPU is lost, and only a new process gets it back.
 *
 * Threads: the table is constant once opened. A context is current in a thread (ctx_set_current); ours has one thread. */
#ifndef SL_KERNELS_CUDA_DRIVER_H
#define SL_KERNELS_CUDA_DRIVER_H

#include "base/status.h"
#include <stdint.h>

typedef unsigned sl_cu_result;       /* an enum of the driver's; 0: well */
typedef int sl_cu_device;            /* a number among those that the driver sees */
typedef unsigned long long sl_cu_at; /* an address in the memory of a device */
/* The driver's own things; their tags are cuda.h's, so that the prototypes can be compared. */
typedef struct CUctx_st *sl_cu_context;
typedef struct CUstream_st *sl_cu_stream;
typedef struct CUevent_st *sl_cu_event;
typedef struct CUmod_st *sl_cu_module;
typedef struct CUfunc_st *sl_cu_function;
typedef struct CUgraph_st *sl_cu_graph;
typedef struct CUgraphExec_st *sl_cu_exec; /* a graph that can be launched */
struct CUuuid_st;                          /* 16 bytes */

enum { /* results that somebody asks for */
       SL_CU_OK = 0,
       SL_CU_INVALID_VALUE = 1,
       SL_CU_OUT_OF_MEMORY = 2,
       SL_CU_NOT_INITIALIZED = 3,
       SL_CU_STUB_LIBRARY = 34,
       SL_CU_DEVICE_UNAVAILABLE = 46, /* another process has it for itself, or it has fallen off the bus */
       SL_CU_NO_DEVICE = 100,
       SL_CU_INVALID_DEVICE = 101,
       SL_CU_INVALID_CONTEXT = 201,
       SL_CU_NO_BINARY_FOR_GPU = 209,
       SL_CU_ECC_UNCORRECTABLE = 214,
       SL_CU_NVLINK_UNCORRECTABLE = 220,
       SL_CU_UNSUPPORTED_PTX = 222,
       SL_CU_CONTAINED = 226,
       SL_CU_INVALID_HANDLE = 400,
       SL_CU_NOT_FOUND = 500,
       SL_CU_NOT_READY = 600, /* no error: the work is not done yet */
       SL_CU_ILLEGAL_ADDRESS = 700,
       SL_CU_LAUNCH_OUT_OF_RESOURCES = 701,
       SL_CU_LAUNCH_TIMEOUT = 702,
       SL_CU_CONTEXT_IS_DESTROYED = 709,
       SL_CU_ASSERT = 710,
       SL_CU_ALREADY_REGISTERED = 712, /* the host's memory, some of it */
       SL_CU_NOT_REGISTERED = 713,
       SL_CU_HARDWARE_STACK_ERROR = 714,
       SL_CU_LAUNCH_FAILED = 719,
       SL_CU_TENSOR_MEMORY_LEAK = 721,
       SL_CU_NOT_SUPPORTED = 801,
       SL_CU_SYSTEM_NOT_READY = 802,
       SL_CU_DRIVER_MISMATCH = 803,
       SL_CU_COMPAT_NOT_SUPPORTED = 804,
       SL_CU_MPS_CLIENT_TERMINATED = 810,
       SL_CU_CAPTURE_UNSUPPORTED = 900, /* not while a stream's work is captured */
       SL_CU_CAPTURE_INVALIDATED = 901, /* by a call that was so refused */
       SL_CU_CAPTURE_WRONG_THREAD = 908,
       SL_CU_UNKNOWN = 999
};
enum { /* attributes of a device */
       SL_CU_MULTIPROCESSORS = 16,
       SL_CU_COMPUTE_MODE = 20,
       SL_CU_HAS_ECC = 32, /* and it is on */
       SL_CU_L2_BYTES = 38,
       SL_CU_CAPABILITY_MAJOR = 75,
       SL_CU_CAPABILITY_MINOR = 76,
       SL_CU_HOST_POINTERS = 91, /* registered memory of the host has one address for both */
       SL_CU_SHARED_BYTES = 97,  /* that a block may have when it asks */
};
enum { SL_CU_MODE_DEFAULT = 0, SL_CU_MODE_PROHIBITED = 2, SL_CU_MODE_EXCLUSIVE = 3 };
enum { /* attributes of a function */
       SL_CU_FUNCTION_MAX_THREADS = 0,
       SL_CU_FUNCTION_LOCAL_BYTES = 3, /* of a thread: spilled registers and stack */
       SL_CU_FUNCTION_REGISTERS = 4,
       SL_CU_FUNCTION_DYNAMIC_SHARED = 8, /* to be set before a launch asks for more than 48 KiB */
};
enum { SL_CU_STREAM_NON_BLOCKING = 1, SL_CU_EVENT_NO_TIMING = 2, SL_CU_CAPTURE_THREAD_LOCAL = 1 };

/* X(field, name in the library, arguments). The names are asked for as of CUDA 13.0, whose prototypes these are. */
#define SL_CU_CALLS(X)                                                                                       \
    X(init, cuInit, (unsigned flags))                                                                        \
    X(error_name, cuGetErrorName, (sl_cu_result result, const char **text))                                  \
    X(error_text, cuGetErrorString, (sl_cu_result result, const char **text))                                \
    X(device_count, cuDeviceGetCount, (int *n))                                                              \
    X(device_get, cuDeviceGet, (sl_cu_device * device, int number))                                          \
    X(device_name, cuDeviceGetName, (char *name, int bytes, sl_cu_device device))                            \
    X(device_uuid, cuDeviceGetUuid, (struct CUuuid_st * uuid, sl_cu_device device))                          \
    X(device_bytes, cuDeviceTotalMem, (size_t * bytes, sl_cu_device device))                                 \
    X(device_attribute, cuDeviceGetAttribute, (int *value, unsigned attribute, sl_cu_device device))         \
    X(device_bus, cuDeviceGetPCIBusId, (char *text, int bytes, sl_cu_device device))                         \
    X(ctx_retain, cuDevicePrimaryCtxRetain, (sl_cu_context * context, sl_cu_device device))                  \
    X(ctx_release, cuDevicePrimaryCtxRelease, (sl_cu_device device))                                         \
    X(ctx_set_current, cuCtxSetCurrent, (sl_cu_context context))                                             \
    X(mem_info, cuMemGetInfo, (size_t * free, size_t * total))                                               \
    X(mem_alloc, cuMemAlloc, (sl_cu_at * at, size_t bytes))                                                  \
    X(mem_free, cuMemFree, (sl_cu_at at))                                                                    \
    X(host_alloc, cuMemHostAlloc, (void **memory, size_t bytes, unsigned flags))                             \
    X(host_free, cuMemFreeHost, (void *memory))                                                              \
    X(host_register, cuMemHostRegister, (void *memory, size_t bytes, unsigned flags))                        \
    X(host_unregister, cuMemHostUnregister, (void *memory))                                                  \
    X(copy_in, cuMemcpyHtoDAsync, (sl_cu_at to, const void *from, size_t bytes, sl_cu_stream stream))        \
    X(copy_out, cuMemcpyDtoHAsync, (void *to, sl_cu_at from, size_t bytes, sl_cu_stream stream))             \
    X(copy_within, cuMemcpyDtoDAsync, (sl_cu_at to, sl_cu_at from, size_t bytes, sl_cu_stream stream))       \
    X(fill, cuMemsetD8Async, (sl_cu_at to, unsigned char value, size_t bytes, sl_cu_stream stream))          \
    X(stream_create, cuStreamCreate, (sl_cu_stream * stream, unsigned flags))                                \
    X(stream_destroy, cuStreamDestroy, (sl_cu_stream stream))                                                \
    X(stream_wait, cuStreamWaitEvent, (sl_cu_stream stream, sl_cu_event event, unsigned flags))              \
    X(stream_query, cuStreamQuery, (sl_cu_stream stream))                                                    \
    X(event_create, cuEventCreate, (sl_cu_event * event, unsigned flags))                                    \
    X(event_destroy, cuEventDestroy, (sl_cu_event event))                                                    \
    X(event_record, cuEventRecord, (sl_cu_event event, sl_cu_stream stream))                                 \
    X(event_query, cuEventQuery, (sl_cu_event event))                                                        \
    X(event_elapsed, cuEventElapsedTime, (float *ms, sl_cu_event begin, sl_cu_event end))                    \
    X(module_load, cuModuleLoadData, (sl_cu_module * module, const void *image))                             \
    X(module_unload, cuModuleUnload, (sl_cu_module module))                                                  \
    X(module_function, cuModuleGetFunction,                                                                  \
      (sl_cu_function * function, sl_cu_module module, const char *name))                                    \
    X(function_load, cuFuncLoad, (sl_cu_function function)) /* now, not when it is launched first */         \
    X(function_attribute, cuFuncGetAttribute, (int *value, unsigned attribute, sl_cu_function function))     \
    X(function_set, cuFuncSetAttribute, (sl_cu_function function, unsigned attribute, int value))            \
    X(function_fits, cuOccupancyMaxActiveBlocksPerMultiprocessor,                                            \
      (int *blocks, sl_cu_function function, int threads, size_t shared_bytes))                              \
    X(launch, cuLaunchKernel,                                                                                \
      (sl_cu_function function, unsigned blocks_x, unsigned blocks_y, unsigned blocks_z, unsigned threads_x, \
       unsigned threads_y, unsigned threads_z, unsigned shared_bytes, sl_cu_stream stream, void **arguments, \
       void **extra))                                                                                        \
    X(capture_begin, cuStreamBeginCapture,                                                                   \
      (sl_cu_stream stream, unsigned mode)) /* what it is given: kept */                                     \
    X(capture_end, cuStreamEndCapture, (sl_cu_stream stream, sl_cu_graph * graph))                           \
    X(graph_make, cuGraphInstantiateWithFlags,                                                               \
      (sl_cu_exec * exec, sl_cu_graph graph, unsigned long long flags))                                      \
    X(graph_destroy, cuGraphDestroy, (sl_cu_graph graph))                                                    \
    X(exec_upload, cuGraphUpload,                                                                            \
      (sl_cu_exec exec, sl_cu_stream stream)) /* not when it is launched first */                            \
    X(exec_launch, cuGraphLaunch, (sl_cu_exec exec, sl_cu_stream stream))                                    \
    X(exec_destroy, cuGraphExecDestroy, (sl_cu_exec exec))

#define SL_CU_FIELD(field, name, arguments) sl_cu_result(*field) arguments;
struct sl_cuda {
    SL_CU_CALLS(SL_CU_FIELD)
};

enum { SL_CU_VERSION = 13000 }; /* of the table, and the least that a driver may say: 13.0 came with 580 */

/* The machine's driver, started: once a process, for ever. SL_E_UNAVAILABLE: it is missing, too old, or finds no GPU that it
 * can use. SLUICE_LIBCUDA names another file than libcuda.so.1. */
sl_status sl_cuda_open(const struct sl_cuda **cuda, struct sl_err *err);

/* The same of this file, into a table of the caller's; for the one above, and tests. The file stays loaded. */
sl_status sl_cuda_open_file(struct sl_cuda *cuda, const char *file, struct sl_err *err);

/* SL_OK, SL_AGAIN (it is not ready), or a sentence that begins with `what` was tried: SL_E_UNAVAILABLE. */
sl_status sl_cu_check(const struct sl_cuda *cuda, sl_cu_result result, const char *what, struct sl_err *err);

/* Until the event has come: a short spin, then naps, so that a core is not kept busy and there is a deadline, which the driver's
 * own waits lack. Else a sentence with `what`: SL_E_DEADLINE after `patience_ms`, or what sl_cu_check says. */
sl_status sl_cu_wait(const struct sl_cuda *cuda, sl_cu_event event, uint32_t patience_ms, const char *what,
                     struct sl_err *err);

/* The context is gone with all that was in it, and the process can't get another: nothing to do but end. */
bool sl_cu_is_final(sl_cu_result result);

#endif
