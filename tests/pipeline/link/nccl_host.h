/* Rows in the host's memory, and the twin of NCCL for them (nccl_twin/): what test programs of links give to a transport that carries
 * rows beside the line. */
#ifndef SL_TESTS_PIPELINE_LINK_NCCL_HOST_H
#define SL_TESTS_PIPELINE_LINK_NCCL_HOST_H

#include "base/rows_device.h"
#include "tests/check.h"
#include "tests/pipeline/link/nccl_twin/nccl_twin.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

static struct nccl_twin twin;
static _Atomic int rows_awaited; /* sends that were made to wait for them, since twin_begin */
static struct twin_event
    *rows_event; /* NULL: rows are written before they are sent; else they are when it fires */

static inline void *host_stream_open(void *user)
{
    (void)user;
    return twin.stream_open();
}
static inline void host_stream_close(void *user, void *stream)
{
    (void)user;
    twin.stream_close(stream);
}
static inline void *host_event_open(void *user)
{
    (void)user;
    return twin.event_open();
}
static inline void host_event_close(void *user, void *event)
{
    (void)user;
    twin.event_close(event);
}
static inline bool host_await_rows(void *user, void *stream, const void *rows)
{
    (void)user, (void)rows;
    rows_awaited++;
    if (rows_event)
        twin.await(stream, rows_event);
    return true;
}
static inline bool host_record(void *user, void *stream, void *event)
{
    (void)user;
    twin.record(stream, event);
    return true;
}
static inline int host_passed(void *user, void *event)
{
    (void)user;
    return twin.passed(event);
}
static inline void *host_address(void *user, const void *host, size_t bytes)
{
    (void)user, (void)bytes;
    return (void *)(uintptr_t)host;
}

static uint8_t host_greeting[SL_ROWS_GREETING_BYTES];

static const struct sl_rows_device host_rows = {.twin = true,
                                                .memory = host_greeting,
                                                .greeting = host_greeting,
                                                .memory_bytes = sizeof host_greeting,
                                                .stream_open = host_stream_open,
                                                .stream_close = host_stream_close,
                                                .event_open = host_event_open,
                                                .event_close = host_event_close,
                                                .await_rows = host_await_rows,
                                                .record = host_record,
                                                .passed = host_passed,
                                                .address = host_address};

/* The build's, wherever the test program lies in it. */
static inline void twin_path(char path[4096])
{
    ssize_t n = readlink("/proc/self/exe", path, 3000);
    path[n > 0 ? n : 0] = '\0';
    char *name = strrchr(path, '/');
    bool in_tests = name && name - path > 6 && memcmp(name - 6, "/tests", 6) == 0;
    snprintf(name ? name + 1 : path, 64,
             in_tests ? "nccl_twin/libnccl.so.2" : "tests/nccl_twin/libnccl.so.2");
}

/* From now on it is what the product opens; without a fault. */
static inline bool twin_begin(void)
{
    static const struct {
        const char *name;
        size_t at;
    } rows[] = {{"fault", offsetof(struct nccl_twin, fault)},
                {"struck", offsetof(struct nccl_twin, struck)},
                {"mismatches", offsetof(struct nccl_twin, mismatches)},
                {"comms", offsetof(struct nccl_twin, comms)},
                {"uses", offsetof(struct nccl_twin, uses)},
                {"transfers", offsetof(struct nccl_twin, transfers)},
                {"stream_open", offsetof(struct nccl_twin, stream_open)},
                {"stream_close", offsetof(struct nccl_twin, stream_close)},
                {"event_open", offsetof(struct nccl_twin, event_open)},
                {"event_close", offsetof(struct nccl_twin, event_close)},
                {"event_fire", offsetof(struct nccl_twin, event_fire)},
                {"record", offsetof(struct nccl_twin, record)},
                {"await", offsetof(struct nccl_twin, await)},
                {"passed", offsetof(struct nccl_twin, passed)}};
    char path[4096], name[64];
    twin_path(path);
    setenv("SLUICE_NCCL", path, 1);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        sl_test_fail(__FILE__, __LINE__, "%s", dlerror());
        return false;
    }
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        snprintf(name, sizeof name, "nccl_twin_%s", rows[i].name);
        void *found = dlsym(library, name);
        if (!found) {
            sl_test_fail(__FILE__, __LINE__, "the twin has no %s", name);
            return false;
        }
        memcpy((char *)&twin + rows[i].at, &found, sizeof found);
    }
    rows_event = NULL;
    rows_awaited = 0;
    return twin.fault("none", 0, 0);
}

#endif
