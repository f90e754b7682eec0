/* Rows beside a line, as who carries them sees it: a way is one direction of a line, an operation a frame of which the rows go over it.
 * transport_beside.c splits frames, keeps their order and says when a line is of no use; what carries (transport_nccl.c,
 * transport_ucx_rows.c) brings rows from one device's memory into another's. Private to these. All is the I/O thread's; nothing waits. */
#ifndef SL_PIPELINE_LINK_TRANSPORT_BESIDE_H
#define SL_PIPELINE_LINK_TRANSPORT_BESIDE_H

#include "base/rows_device.h"
#include "pipeline/link/link_impl.h"

enum sl_rows_stage { SL_ROWS_WAIT, SL_ROWS_CALLED, SL_ROWS_RUN };

struct sl_rows_op { /* a frame of which the rows go beside; while they do, in its way's list */
    struct sl_rows_op *next;
    enum sl_rows_stage stage;
    bool busy, inner_over, rows_over;
    sl_status status;
    struct sl_sending *sending; /* out, with what the hub had put into it */
    const void *payload;
    size_t bytes;
    struct sl_landing *whole, record; /* in: the hub's, and where the inner transport puts its half */
    uint8_t pad[SL_PAD_BYTES];        /* instead of a record of no bytes */
    uint64_t number;                  /* the frame's, by which both ends know it */
    void *rows;
    size_t n_rows;
    /* For all operations that it stands for, one after the other: */
    void *event; /* the device's, lent to the way */
    uint8_t *copy;
    size_t copy_bytes;
    /* transport_ucx_rows.c's */
    struct sl_line *line; /* NULL: no request is under way */
    int through;          /* as is_through answers, of UCX's half */
    bool copying;         /* a twin has been given a copy to make, with the event behind it */
    const char *trouble;
    uint8_t label[SL_LABEL_BYTES];
};

enum sl_way_state { SL_WAY_NONE, SL_WAY_JOINING, SL_WAY_UP, SL_WAY_ENDING, SL_WAY_OVER };

struct sl_way {
    void *carrier;
    const struct sl_rows_device *device;
    struct sl_line *line; /* the inner transport's; NULL: closed */
    bool out;
    void *stream;
    enum sl_way_state state;
    struct sl_rows_op *first, **last; /* in the order of the frames */
    uint64_t moved_ms;                /* when something got through, or there was nothing */
    struct sl_rows_op ops[SL_SLOTS_MAX];
    uint64_t ending_ms;
    /* transport_nccl.c's */
    struct sl_nccl_comm *comm;
    int (*abort)(struct sl_nccl_comm *comm);
    bool has_thread;
    _Atomic bool aborted;
    /* transport_ucx_rows.c's */
    struct sl_rows_op greeting; /* of nobody's rows, before any others */
};

/* What carries rows. Where a call is answered by a number, that is 1: yes, 0: not yet, -1: it has failed, and *detail (static) says in
 * what way, for the log. */
struct sl_rows_carrier {
    const char *name, *hint, *option; /* for the log: how to hear more; and the word of --rows */
    /* Before any line, and before the transport that carries everything else. NULL, with `close`: there is nothing to do. */
    sl_status (*open)(void **carrier, const struct sl_io_config *config, struct sl_err *err);
    void (*close)(void *carrier);
    /* Where the other end of a line shall meet the way out. */
    int (*draw)(void *carrier, uint8_t id[SL_BESIDE_ID_BYTES], const char **detail);
    /* Begins to meet the other end there. */
    int (*meet)(struct sl_way *way, const uint8_t id[SL_BESIDE_ID_BYTES], const char **detail);
    int (*is_up)(struct sl_way *way,
                 const char **detail); /* 1: both ends have met, and operations can be begun */
    int (*begin)(struct sl_way *way, struct sl_rows_op *op,
                 const char **detail); /* in order; 0: asked again */
    int (*is_through)(struct sl_way *way, struct sl_rows_op *op,
                      const char **detail); /* of one that has begun */
    bool (*end)(
        struct sl_way *way); /* asked until it is true: none of its rows is read or written any more */
};

extern const struct sl_rows_carrier sl_rows_by_nccl, sl_rows_by_ucx;

#endif
