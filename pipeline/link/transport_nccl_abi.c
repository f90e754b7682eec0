/* Whether transport_nccl_api.h says what nccl.h says: compiled, and nothing but compiled, where that header and CUDA's are found. */
#if __has_include(<nccl.h>) && __has_include(<cuda_runtime.h>)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wpedantic"
#include <nccl.h>
#pragma GCC diagnostic pop

#include "pipeline/link/transport_nccl_api.h"

#define SAME_TYPE(function, type) _Static_assert(_Generic(&(function), type : 1, default : 0), #function)
SAME_TYPE(ncclGetVersion, ncclResult_t (*)(int *));
SAME_TYPE(ncclGetErrorString, const char *(*)(ncclResult_t));
SAME_TYPE(ncclGetUniqueId, ncclResult_t (*)(ncclUniqueId *));
SAME_TYPE(ncclCommInitRankConfig, ncclResult_t (*)(ncclComm_t *, int, ncclUniqueId, int, ncclConfig_t *));
SAME_TYPE(ncclCommGetAsyncError, ncclResult_t (*)(ncclComm_t, ncclResult_t *));
SAME_TYPE(ncclCommAbort, ncclResult_t (*)(ncclComm_t));
SAME_TYPE(ncclSend, ncclResult_t (*)(const void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t));
SAME_TYPE(ncclRecv, ncclResult_t (*)(void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t));

/* Enumerations and handles are passed as int and as pointers. */
_Static_assert(sizeof(ncclResult_t) == sizeof(int) && sizeof(ncclDataType_t) == sizeof(int),
               "enums are ints");
_Static_assert(sizeof(ncclComm_t) == sizeof(void *) && sizeof(cudaStream_t) == sizeof(void *), "handles");
_Static_assert(sizeof(ncclUniqueId) == sizeof(struct sl_nccl_id) && SL_NCCL_ID_BYTES == NCCL_UNIQUE_ID_BYTES,
               "the id");
_Static_assert((int)ncclSuccess == SL_NCCL_SUCCESS && (int)ncclSystemError == SL_NCCL_SYSTEM_ERROR &&
                   (int)ncclInternalError == SL_NCCL_INTERNAL_ERROR &&
                   (int)ncclInvalidArgument == SL_NCCL_INVALID_ARGUMENT &&
                   (int)ncclInvalidUsage == SL_NCCL_INVALID_USAGE &&
                   (int)ncclRemoteError == SL_NCCL_REMOTE_ERROR &&
                   (int)ncclInProgress == SL_NCCL_IN_PROGRESS && (int)ncclUint8 == SL_NCCL_UINT8 &&
                   NCCL_CONFIG_UNDEF_INT == SL_NCCL_UNDEFINED,
               "numbers");
#define SAME_PLACE(theirs, ours)                                                                             \
    _Static_assert(offsetof(ncclConfig_t, theirs) == offsetof(struct sl_nccl_config, ours), #ours)
SAME_PLACE(size, size);
SAME_PLACE(magic, magic);
SAME_PLACE(version, version);
SAME_PLACE(blocking, blocking);
SAME_PLACE(cgaClusterSize, cga_cluster_size);
SAME_PLACE(minCTAs, min_ctas);
SAME_PLACE(maxCTAs, max_ctas);
SAME_PLACE(netName, net_name);
SAME_PLACE(splitShare, split_share);
#endif
