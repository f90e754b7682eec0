/* Rows in the memory of a device, as who carries them from device to device sees them (pipeline/link/transport_beside.c): its streams and
 * events, and where the rows lie that the host knows by addresses of its own. Filled by the device that has them
 * (kernels/gpu/device_rows.c). */
#ifndef SL_BASE_ROWS_DEVICE_H
#define SL_BASE_ROWS_DEVICE_H

#include <stdbool.h>
#include <stddef.h>

enum { SL_ROWS_GREETING_BYTES = 512 }; /* half of them for what goes out, half for what comes */

/* All but `address` is called by one thread, that of a link's I/O, and none of it may wait for the device. */
struct sl_rows_device {
    void *user;
    bool twin; /* memory and streams are a twin's, which only the twin of a library can work with */
    /* All places of rows lie in it, and `greeting`: SL_ROWS_GREETING_BYTES that are nobody's, to be written to while a link forms, so
     * that what a library does at its first transfer is done before kernels run beside it. For as long as there are links. */
    void *memory, *greeting;
    size_t memory_bytes;
    /* A queue of the device: what is put into one runs in order, after the call. NULL: there is none. Closed when nothing that
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
    /* A twin's, whose memory nothing else can reach; else NULL. When it is its turn on the stream, `step` is asked, with that memory
     * open, again and again until it says true. It may not call the device. false: the device is lost. */
    bool (*give)(void *user, void *stream, bool (*step)(void *arg), void *arg);
    /* The device's place for rows that the host has there, which it keeps from the first time on that somebody asks. NULL: they are
     * larger than a place, or all are other rows'. Any thread. */
    void *(*address)(void *user, const void *host, size_t bytes);
};

#endif
