/* Rows beside a line by NCCL: ncclSend from the sender's memory, ncclRecv into the receiver's (transport_beside.h).
 *
 * Neither call has a length, a name or a refusal, so a receive is posted when the header is there, of just so many bytes, and in the order
 * in which the frames are numbered, which is that of the sends; headers may overtake each other. A credit precedes every send, so one
 * never waits for a slot.
 *
 * A line has two communicators of two ranks, one each way, so that one way never waits for the other. Who sends draws the id, the
 * handshake tells it (handshake.c), and with every line come new ones: a communicator is never used again after an error. None of
 * NCCL's calls waits (blocking = 0); what they began is asked for in `progress`, and when an operation is through says an event behind
 * it on its stream.
 *
 * Whether a peer lives is for the heartbeat to say and never for NCCL, which mostly tells nothing when one is gone. What takes too
 * long, and every error that it does tell, breaks the line. Then both communicators are aborted, each on a thread of its own, because the
 * call waits for the device and may hang; only when it has returned are buffers given back, since before that the device may write
 * into them. One that has not returned within a second ends the process, whose supervisor starts it again: there is no way to have
 * those buffers back. */
#include "base/clock.h"
#include "base/log.h"
#include "base/mutate.h"
#include "pipeline/link/transport_beside.h"
#include "pipeline/link/transport_nccl_api.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

enum { ABORT_MS = 1000 }; /* for a communicator to end */

struct carrier {
    struct sl_nccl nccl;
    struct sl_nccl_id
        first_id; /* drawn at the start, since the first one makes NCCL look at the machine's networks */
    bool first_used;
};

static const struct sl_nccl *nccl_of(const struct sl_way *way)
{
    return &((const struct carrier *)way->carrier)->nccl;
}

/* ---- Meeting ---- */

static int nccl_draw(void *user, uint8_t id[SL_BESIDE_ID_BYTES], const char **detail)
{
    struct carrier *c = user;
    _Static_assert(sizeof c->first_id == SL_BESIDE_ID_BYTES, "an id is an id of NCCL");
    int result = c->first_used ? c->nccl.get_unique_id(&c->first_id) : SL_NCCL_SUCCESS;
    c->first_used = true;
    memcpy(id, c->first_id.bytes, SL_BESIDE_ID_BYTES);
    *detail = c->nccl.get_error_string(result);
    return result == SL_NCCL_SUCCESS ? 1 : -1;
}

/* minCTAs and maxCTAs: a link takes few of the device's processors from those that compute. */
static int nccl_meet(struct sl_way *way, const uint8_t id[SL_BESIDE_ID_BYTES], const char **detail)
{
    struct sl_nccl_config config = {.size = sizeof config,
                                    .magic = SL_NCCL_CONFIG_MAGIC,
                                    .version = SL_NCCL_CONFIG_VERSION,
                                    .blocking = 0,
                                    .cga_cluster_size = SL_NCCL_UNDEFINED,
                                    .min_ctas = 1,
                                    .max_ctas = 4,
                                    .net_name = NULL,
                                    .split_share = SL_NCCL_UNDEFINED};
    struct sl_nccl_id place;
    memcpy(place.bytes, id, sizeof place.bytes);
    int result = nccl_of(way)->comm_init_rank_config(&way->comm, 2, place, way->out ? 0 : 1, &config);
    *detail = nccl_of(way)->get_error_string(result);
    return result == SL_NCCL_SUCCESS || result == SL_NCCL_IN_PROGRESS ? 1 : -1;
}

static int nccl_is_up(struct sl_way *way, const char **detail)
{
    int state = SL_NCCL_SUCCESS;
    int result = nccl_of(way)->comm_get_async_error(way->comm, &state);
    if (result != SL_NCCL_SUCCESS)
        state = result;
    if (state == SL_NCCL_SUCCESS)
        return 1;
    *detail = nccl_of(way)->get_error_string(state);
    return state == SL_NCCL_IN_PROGRESS || SL_MUTATED(ROWS_DEAF) ? 0 : -1;
}

/* ---- Operations ---- */

static int call(const struct sl_way *way, const struct sl_rows_op *op)
{
    const struct sl_nccl *nccl = nccl_of(way);
    if (!way->out)
        return nccl->recv(op->rows, op->n_rows, SL_NCCL_UINT8, 0, way->comm, way->stream);
    if (!SL_MUTATED(ROWS_UNREADY) && !way->device->await_rows(way->device->user, way->stream, op->rows))
        return SL_NCCL_INTERNAL_ERROR;
    return nccl->send(op->rows, op->n_rows, SL_NCCL_UINT8, 1, way->comm, way->stream);
}

static int nccl_begin(struct sl_way *way, struct sl_rows_op *op, const char **detail)
{
    int result = op->stage == SL_ROWS_CALLED ? SL_NCCL_SUCCESS : call(way, op);
    if (result == SL_NCCL_IN_PROGRESS && !SL_MUTATED(ROWS_IN_PROGRESS)) {
        op->stage = SL_ROWS_CALLED;
        return 0;
    }
    *detail = nccl_of(way)->get_error_string(result);
    bool begun = result == SL_NCCL_SUCCESS || result == SL_NCCL_IN_PROGRESS;
    return begun && way->device->record(way->device->user, way->stream, op->event) ? 1 : -1;
}

static int nccl_is_through(struct sl_way *way, struct sl_rows_op *op, const char **detail)
{
    *detail = "its event fails";
    return way->device->passed(way->device->user, op->event);
}

/* ---- The end of a way ---- */

static void *abort_main(void *argument)
{
    struct sl_way *way = argument;
    pthread_setname_np(pthread_self(), "nccl-abort");
    way->abort(way->comm);
    atomic_store_explicit(&way->aborted, true, memory_order_release);
    return NULL;
}

/* A thread that could not be had is asked for again, as long as there is time. */
static bool nccl_end(struct sl_way *way)
{
    if (!way->comm || SL_MUTATED(ROWS_UNABORTED))
        return true;
    if (!way->has_thread) {
        pthread_t thread;
        way->abort = nccl_of(way)->comm_abort;
        way->has_thread = pthread_create(&thread, NULL, abort_main, way) == 0;
        if (way->has_thread)
            pthread_detach(thread);
    }
    if (atomic_load_explicit(&way->aborted, memory_order_acquire))
        return true;
    if (sl_clock_ns() / 1000000u - way->ending_ms >= ABORT_MS && !SL_MUTATED(ROWS_NO_WATCHDOG)) {
        sl_log_error(
            "NCCL has not ended a transfer of rows within %d ms, and the device may still write into their buffers: "
            "this process ends, and has to be started again",
            ABORT_MS);
        _exit(EX_UNAVAILABLE);
    }
    return false;
}

/* ---- Life ---- */

static sl_status nccl_open(void **carrier, const struct sl_io_config *config, struct sl_err *err)
{
    struct sl_nccl nccl;
    int version;
    SL_TRY(sl_nccl_open(&nccl, &version, err));
    if (config->rows_device->twin != sl_nccl_is_twin())
        return sl_fail(
            err, SL_E_CONFIG,
            config->rows_device->twin
                ? "--rows nccl on the twin of a GPU is for the twin of NCCL, which SLUICE_NCCL names; "
                  "choose --rows staged"
                : "SLUICE_NCCL names the twin of NCCL, which does not know a GPU's memory; unset it, or "
                  "choose --rows staged");
    struct sl_nccl_id id;
    int result = nccl.get_unique_id(&id);
    if (result != SL_NCCL_SUCCESS)
        return sl_fail(
            err, SL_E_UNAVAILABLE,
            "NCCL does not start (%s): look at NCCL_SOCKET_IFNAME and the network, or choose --rows "
            "staged",
            nccl.get_error_string(result));
    struct carrier *c = calloc(1, sizeof *c);
    if (!c)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a transport");
    *c = (struct carrier){.nccl = nccl, .first_id = id};
    *carrier = c;
    return SL_OK;
}

const struct sl_rows_carrier sl_rows_by_nccl = {
    .name = "NCCL",
    .option = "nccl",
    .hint =
        "NCCL_DEBUG=WARN in the environment of both nodes makes it say more, --rows staged does without it",
    .open = nccl_open,
    .close = free,
    .draw = nccl_draw,
    .meet = nccl_meet,
    .is_up = nccl_is_up,
    .begin = nccl_begin,
    .is_through = nccl_is_through,
    .end = nccl_end,
};
