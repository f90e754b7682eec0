/* What a link needs of NCCL, as this tree declares it: the library is opened when a link asks for it, so that a node without a GPU
 * needs none and the binary links nothing of NVIDIA. transport_nccl_abi.c compares all of it with nccl.h where that is installed. */
#ifndef SL_PIPELINE_LINK_TRANSPORT_NCCL_API_H
#define SL_PIPELINE_LINK_TRANSPORT_NCCL_API_H

#include "base/status.h"
#include <stdbool.h>
#include <stddef.h>

enum { SL_NCCL_ID_BYTES = 128, SL_NCCL_UINT8 = 1, SL_NCCL_UNDEFINED = -2147483647 - 1 };
enum sl_nccl_result { /* what its functions return; others are errors */
                      SL_NCCL_SUCCESS = 0,
                      SL_NCCL_SYSTEM_ERROR = 2,
                      SL_NCCL_INTERNAL_ERROR = 3,
                      SL_NCCL_INVALID_ARGUMENT = 4,
                      SL_NCCL_INVALID_USAGE = 5,
                      SL_NCCL_REMOTE_ERROR = 6,
                      SL_NCCL_IN_PROGRESS = 7
};

struct sl_nccl_id {
    char bytes[SL_NCCL_ID_BYTES];
};
struct sl_nccl_comm; /* one end of a communicator */

/* As it was in 2.18, whose number it bears: a newer library takes what it does not have from its defaults. */
struct sl_nccl_config {
    size_t size;
    unsigned int magic, version;
    int blocking, cga_cluster_size, min_ctas, max_ctas;
    const char *net_name;
    int split_share;
};
enum { SL_NCCL_CONFIG_VERSION = 21800 };
#define SL_NCCL_CONFIG_MAGIC 0xcafebeefu

struct sl_nccl { /* its functions, without "nccl" */
    int (*get_version)(int *version);
    const char *(*get_error_string)(int result);
    int (*get_unique_id)(struct sl_nccl_id *id);
    int (*comm_init_rank_config)(struct sl_nccl_comm **comm, int n_ranks, struct sl_nccl_id id, int rank,
                                 struct sl_nccl_config *config);
    int (*comm_get_async_error)(struct sl_nccl_comm *comm, int *result);
    int (*comm_abort)(struct sl_nccl_comm *comm);
    int (*send)(const void *buffer, size_t count, int type, int peer, struct sl_nccl_comm *comm,
                void *stream);
    int (*recv)(void *buffer, size_t count, int type, int peer, struct sl_nccl_comm *comm, void *stream);
};

/* The library that SLUICE_NCCL names, or libnccl.so.2; it stays open. version: 22809 is 2.28.9. SL_E_UNAVAILABLE: it is missing, lacks
 * a function, or is of a version that this table is not for; the sentence says which and what to do. Any thread. */
sl_status sl_nccl_open(struct sl_nccl *nccl, int *version, struct sl_err *err);
/* Once it is open: it is no NCCL but what stands in for it in tests, which works with a twin's memory and streams and no other. */
bool sl_nccl_is_twin(void);
/* "2.28.9" */
void sl_nccl_version_text(int version, char text[24]);

#endif
