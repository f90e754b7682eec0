/* Rows by NCCL: what a transport of that kind needs of the device in whose memory they lie. Today the tests' twin is the only one
 * there is: streams and events of a library that stands in for NCCL and CUDA, and the memory of the host. */
#ifndef SL_PIPELINE_LINK_TRANSPORT_NCCL_H
#define SL_PIPELINE_LINK_TRANSPORT_NCCL_H

#include "base/status.h"
#include <stdbool.h>

/* All is called by the I/O thread, and none of it may wait for the device. */
struct sl_rows_device {
    void *user;
    /* A queue of the device: NCCL's calls on one run in their order, after the call. NULL: there is none. Closed when nothing that
     * a link asked for runs on it any more. */
    void *(*stream_open)(void *user);
    void (*stream_close)(void *user, void *stream);
    void *(*event_open)(void *user); /* NULL: there is none */
    void (*event_close)(void *user, void *event);
    /* What comes behind it on the stream waits until whoever writes these rows has done so. false: the device is lost. */
    bool (*await_rows)(void *user, void *stream, const void *rows);
    bool (*record)(void *user, void *stream,
                   void *event);            /* behind all that is on the stream; false: the device is lost */
    int (*passed)(void *user, void *event); /* 1: all before it has run; 0: not yet; -1: the device is lost */
    void *(*address)(void *user,
                     const void *host); /* the device's of what a link's slots and payloads have there */
};

#endif
