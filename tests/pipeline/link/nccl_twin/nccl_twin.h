/* A library that stands in for NCCL and for what a link needs of CUDA, with faults, for tests alone: built as libnccl.so.2 and opened
 * by the same dlopen as the real one. These functions it has beside NCCL's; a test finds them with dlsym. Streams are its own, or those
 * of the twin of a GPU (kernels/cuda/twin.h), which has its events and its memory then. */
#ifndef SL_TESTS_PIPELINE_LINK_NCCL_TWIN_H
#define SL_TESTS_PIPELINE_LINK_NCCL_TWIN_H

#include <stdbool.h>

struct twin_stream;
struct twin_event;

struct nccl_twin {
    /* From the `after`-th occasion on, `times` times (-1: always). "none": no fault. Occasions are transfers, but for init_X
     * (meetings), id_fail (ids) and X_abort, abort_X (aborts). Counts from now. */
    bool (*fault)(const char *name, int after, int times);
    int (*struck)(void); /* how often a fault came about */
    int (*mismatches)(
        void);          /* receives of another size than their send, and calls that NCCL does not allow */
    int (*comms)(void); /* that have not been aborted */
    bool (*uses)(const void *buffer); /* a transfer with these bytes may still begin or go on */
    int (*transfers)(void);           /* that were begun, by both ends, since a fault was set */
    struct twin_stream *(*stream_open)(void);
    void (*stream_close)(struct twin_stream *stream);
    struct twin_event *(*event_open)(void);
    void (*event_close)(struct twin_event *event);
    void (*event_fire)(struct twin_event *event); /* without a stream */
    void (*record)(struct twin_stream *stream, struct twin_event *event);
    void (*await)(struct twin_stream *stream, struct twin_event *event);
    bool (*passed)(struct twin_event *event);
};

#endif
