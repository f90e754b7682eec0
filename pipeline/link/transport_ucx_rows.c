/* Rows beside a line by UCX, from one device's memory into another's (transport_beside.h): an active message of their own over the
 * line's endpoint, always by rendezvous, since what is sent eagerly lands in the host's memory. Its label is the line's with the
 * number of the frame, whose header went before it over the same lane, so that the place is known when UCX asks for one.
 *
 * UCX knows no streams: what is sent waits until an event says that it is written, and what has come is there for any work that is put
 * into a stream afterwards. The memory is registered as a whole, and each call says so: UCX 1.22 asks the driver about memory that it does
 * not know, by a call that waits for a thread which launches kernels. What a first transfer does beside (it opens the other's memory, and
 * makes events) is done by a greeting each way, before the line is up.
 *
 * A twin's memory is known to no library; there a copy in the host's is sent and received, which the twin makes when it is its turn
 * (sl_rows_device.give).
 *
 * Sends and receives are of the line and come home before it is closed; a trunk that cannot end them is cut (transport_ucx.c). */
#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mutate.h"
#include "pipeline/link/data_address.h"
#include "pipeline/link/transport_beside.h"
#include "pipeline/link/transport_ucx.h"
#include "pipeline/link/transport_ucx_lanes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    GREETING_BYTES = SL_ROWS_GREETING_BYTES / 2,
    QUIET_MS = 10000 /* between two words in the log about the same */
};
#define GREETING_NUMBER UINT64_MAX

static ucs_memory_type_t memory_of(const struct sl_way *way)
{
    return way->device->twin ? UCS_MEMORY_TYPE_HOST : UCS_MEMORY_TYPE_CUDA;
}

/* Of a call for so many bytes of rows there. */
static ucp_request_param_t param_for(const struct sl_way *way, const struct sl_transport *t, const void *at,
                                     size_t bytes)
{
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
                                                 UCP_OP_ATTR_FIELD_MEMORY_TYPE,
                                 .memory_type = memory_of(way)};
    const uint8_t *from = way->device->memory, *place = at;
    if (t->rows && place >= from && place + bytes <= from + way->device->memory_bytes) {
        param.op_attr_mask |= UCP_OP_ATTR_FIELD_MEMH;
        param.memh = t->rows;
    }
    return param;
}

/* Once, and until the transport is closed: its device has the same memory all the while. */
static bool register_memory(const struct sl_way *way, struct sl_transport *t)
{
    ucp_mem_map_params_t params = {.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS |
                                                 UCP_MEM_MAP_PARAM_FIELD_LENGTH |
                                                 UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE,
                                   .address = way->device->memory,
                                   .length = way->device->memory_bytes,
                                   .memory_type = memory_of(way)};
    return t->rows || way->device->give || ucp_mem_map(t->context, &params, &t->rows) == UCS_OK;
}

/* ---- A twin's memory ---- */

static bool copy_out(void *arg)
{
    struct sl_rows_op *op = arg;
    memcpy(op->copy, op->rows, op->n_rows);
    return true;
}

static bool copy_in(void *arg)
{
    struct sl_rows_op *op = arg;
    memcpy(op->rows, op->copy, op->n_rows);
    return true;
}

/* What UCX reads or writes. NULL: out of memory. */
static void *reachable(const struct sl_way *way, struct sl_rows_op *op)
{
    if (!way->device->give)
        return op->rows;
    if (op->copy_bytes < op->n_rows) {
        free(op->copy);
        op->copy = malloc(op->n_rows);
        op->copy_bytes = op->copy ? op->n_rows : 0;
    }
    return op->copy;
}

/* The copy is made behind what the stream has, and the event behind that. */
static bool copy_by(const struct sl_way *way, struct sl_rows_op *op, bool (*step)(void *arg))
{
    const struct sl_rows_device *device = way->device;
    op->copying = reachable(way, op) && device->give(device->user, way->stream, step, op) &&
                  device->record(device->user, way->stream, op->event);
    return op->copying;
}

/* ---- Going out ---- */

static void through(struct sl_rows_op *op, ucs_status_t status)
{
    op->through = status == UCS_OK ? 1 : -1;
    op->trouble = ucs_status_string(status);
}

static void on_sent(void *request, ucs_status_t status, void *user)
{
    struct sl_rows_op *op = user;
    op->line->n_under_way--;
    op->line = NULL;
    through(op, status);
    ucp_request_free(request);
}

static int send_rows(struct sl_way *way, struct sl_rows_op *op)
{
    struct sl_line *line = way->line;
    struct sl_trunk *trunk = line->trunk;
    if (!trunk || !trunk->ep || trunk->failed || line->failed)
        return -1;
    sl_put64(op->label, line->link);
    sl_put64(op->label + 8, line->number);
    sl_put64(op->label + 16, op->number);
    sl_put64(op->label + 24, 0);
    const void *rows = reachable(way, op);
    ucp_request_param_t param = param_for(way, line->transport, rows, op->n_rows);
    param.op_attr_mask |= UCP_OP_ATTR_FIELD_FLAGS;
    param.flags = UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_RNDV;
    param.cb.send = on_sent;
    param.user_data = op;
    op->line = line; /* first, as where rows are received */
    line->n_under_way++;
    ucs_status_ptr_t request =
        ucp_am_send_nbx(trunk->ep, SL_UCX_ROWS_AM_ID, op->label, sizeof op->label, rows, op->n_rows, &param);
    if (!UCS_PTR_IS_PTR(request)) {
        op->line = NULL;
        line->n_under_way--;
        through(op, UCS_PTR_STATUS(request));
    }
    return 1;
}

static int begin_out(struct sl_way *way, struct sl_rows_op *op)
{
    const struct sl_rows_device *device = way->device;
    if (op->stage == SL_ROWS_WAIT) {
        bool waits = op == &way->greeting || SL_MUTATED(ROWS_UNREADY) ||
                     device->await_rows(device->user, way->stream, op->rows);
        if (!waits || !(device->give ? copy_by(way, op, copy_out)
                                     : device->record(device->user, way->stream, op->event)))
            return -1;
        op->stage = SL_ROWS_CALLED;
    }
    int written = device->passed(device->user, op->event);
    if (written > 0)
        op->copying = false;
    return written > 0 ? send_rows(way, op) : written;
}

/* ---- Coming in ---- */

static void on_received(void *request, ucs_status_t status, size_t bytes, void *user)
{
    (void)bytes; /* it was compared before a place was named */
    on_sent(request, status, user);
}

static bool is_awaited(const struct sl_rows_op *op, uint64_t number)
{
    return op->busy && !op->line && (op->through == 0 || SL_MUTATED(ROWS_AGAIN)) && op->number == number;
}

static struct sl_rows_op *awaited(struct sl_way *way, uint64_t number)
{
    for (int i = 0; way && i < SL_SLOTS_MAX; i++)
        if (is_awaited(&way->ops[i], number))
            return &way->ops[i];
    return way && is_awaited(&way->greeting, number) ? &way->greeting : NULL;
}

/* The link carries on over another line, so that nobody else would say what was wrong. */
void sl_ucx_rows_refused(struct sl_line *line, const char *reason)
{
    struct sl_transport *t = line->transport;
    uint64_t now_ms = sl_clock_ns() / 1000000u;
    bool is_cause = !line->failed && !(line->conn && line->conn->fault); /* else its header was passed over */
    if (is_cause && (t->refused_ms == 0 || now_ms - t->refused_ms >= QUIET_MS)) {
        t->refused_ms = now_ms;
        sl_log_warn(
            "rows by UCX: %s, so this line is given up for another; look at the log of the node that sends them",
            reason);
    }
    sl_ucx_line_failed(line, reason);
}

/* Returning UCS_OK without a receive drops them, and the sender will believe that they were delivered: the line is of no use then. */
ucs_status_t sl_ucx_rows_arrived(struct sl_line *line, uint64_t number, void *data, size_t bytes)
{
    struct sl_way *way = line->rows;
    struct sl_rows_op *op = awaited(way, number);
    void *to = op && (op->n_rows == bytes || SL_MUTATED(ROWS_ANY_SIZE)) ? reachable(way, op) : NULL;
    if (!op && SL_MUTATED(ROWS_OF_NONE))
        return UCS_OK;
    if (!to) {
        sl_ucx_rows_refused(line, !op ? "rows came of a frame that has none, or before its header"
                                  : op->n_rows != bytes
                                      ? "rows are of another size than their frame's header says"
                                      : "out of memory for rows");
        return UCS_OK;
    }
    ucp_request_param_t param = param_for(way, line->transport, to, bytes);
    param.cb.recv_am = on_received;
    param.user_data = op;
    op->line = line; /* first: what can be fetched at once, or not at all, is told before the call returns */
    line->n_under_way++;
    ucs_status_ptr_t request = ucp_am_recv_data_nbx(line->transport->worker, data, to, bytes, &param);
    if (UCS_PTR_IS_PTR(request))
        return UCS_INPROGRESS;
    op->line = NULL;
    line->n_under_way--;
    through(op, UCS_PTR_STATUS(request));
    return UCS_OK;
}

/* ---- The table ---- */

static int rows_draw(void *carrier, uint8_t id[SL_BESIDE_ID_BYTES], const char **detail)
{
    (void)carrier, (void)detail;
    memset(id, 0, SL_BESIDE_ID_BYTES); /* they meet where the line is */
    return 1;
}

/* What UCX says of the line's endpoint. false: there is none, or no memory. */
static bool lanes_of(const struct sl_line *line, struct sl_ucx_lanes *lanes)
{
    char *text = NULL;
    size_t bytes;
    FILE *file = line->trunk && line->trunk->ep ? open_memstream(&text, &bytes) : NULL;
    if (!file)
        return false;
    ucp_ep_print_info(line->trunk->ep, file);
    bool whole = fclose(file) == 0;
    if (whole)
        *lanes = sl_ucx_lanes_read(text);
    free(text);
    return whole;
}

/* It takes tcp for want of better without a word: then rows of a GPU go by way of the host, in pieces of 8 KiB for each of which the
 * I/O thread waits. A twin's do no worse so, and have to go by what else UCX may use only if there is such. */
static bool lanes_will_do(const struct sl_line *line)
{
    struct sl_transport *t = line->transport;
    struct sl_ucx_lanes lanes;
    struct sl_ucx_address peer;
    char host[SL_IO_HOST_BYTES];
    uint64_t now_ms = sl_clock_ns() / 1000000u;
    if (!lanes_of(line, &lanes) || sl_ucx_address_read(&peer, &line->trunk->peer) != SL_OK)
        return false;
    sl_data_address_text(&peer.at, host, sizeof host);
    bool reach = t->rows_on_twin ? lanes.more || !sl_ucx_tls_has_more(t->tls) : lanes.reaches;
    if (reach || SL_MUTATED(ROWS_FALL_BACK)) {
        sl_log_info("rows to the node at %s go by UCX over %s", host, lanes.list);
        return true;
    }
    if (t->fell_ms == 0 || now_ms - t->fell_ms >= QUIET_MS) {
        t->fell_ms = now_ms;
        sl_log_error(
            "UCX has nothing but %s to the node at %s, of what it may use (%s): rows would go by way of the host, more "
            "slowly than staged; see to it that both nodes reach each other's GPU (on one machine: one PID and IPC "
            "namespace; over RDMA: a network device of both, named in UCX_TLS), or choose --rows staged",
            lanes.list, host, t->tls);
    }
    return false;
}

/* The event of the first operation has nothing to do before. */
static int rows_meet(struct sl_way *way, const uint8_t id[SL_BESIDE_ID_BYTES], const char **detail)
{
    uint8_t *greeting = way->device->greeting;
    (void)id;
    *detail = "UCX fell back to tcp";
    if (way->out && !lanes_will_do(way->line))
        return -1;
    *detail = "UCX cannot register the memory of rows";
    if (!register_memory(way, way->line->transport))
        return -1;
    way->greeting = (struct sl_rows_op){.busy = true,
                                        .number = GREETING_NUMBER,
                                        .rows = way->out ? greeting : greeting + GREETING_BYTES,
                                        .n_rows = GREETING_BYTES,
                                        .event = way->ops[0].event};
    if (!way->out)
        way->line->rows = way;
    return 1;
}

static int rows_begin(struct sl_way *way, struct sl_rows_op *op, const char **detail)
{
    *detail = "the line or the device is lost";
    return way->out ? begin_out(way, op) : 1; /* who receives is called */
}

static int rows_is_through(struct sl_way *way, struct sl_rows_op *op, const char **detail)
{
    const struct sl_rows_device *device = way->device;
    *detail = op->trouble ? op->trouble : "the device is lost";
    if (op->through <= 0 || way->out || !device->give)
        return op->through;
    if (!op->copying && !copy_by(way, op, copy_in))
        return -1;
    return device->passed(device->user, op->event);
}

static int rows_is_up(struct sl_way *way, const char **detail)
{
    struct sl_rows_op *greeting = &way->greeting;
    if (!way->line || !greeting->busy)
        return way->line ? 1 : 0;
    if (greeting->stage != SL_ROWS_RUN) {
        int begun = rows_begin(way, greeting, detail);
        if (begun <= 0)
            return begun;
        greeting->stage = SL_ROWS_RUN;
    }
    int through = rows_is_through(way, greeting, detail);
    greeting->busy = through == 0;
    return through;
}

/* What the line has is its own to bring home; what the twin is to copy yet must not find the operation gone. */
static bool rows_end(struct sl_way *way)
{
    const struct sl_rows_device *device = way->device;
    if (way->line && !way->out)
        way->line->rows = NULL;
    for (int i = 0; i <= SL_SLOTS_MAX; i++) {
        const struct sl_rows_op *op = i < SL_SLOTS_MAX ? &way->ops[i] : &way->greeting;
        if (op->busy && (op->line || (op->copying && device->passed(device->user, op->event) == 0)))
            return false;
    }
    free(way->greeting.copy);
    way->greeting.copy = NULL;
    return true;
}

const struct sl_rows_carrier sl_rows_by_ucx = {
    .name = "UCX",
    .option = "ucx",
    .hint =
        "UCX_LOG_LEVEL=info in the environment of both nodes makes it say more, --rows staged does without it",
    .draw = rows_draw,
    .meet = rows_meet,
    .is_up = rows_is_up,
    .begin = rows_begin,
    .is_through = rows_is_through,
    .end = rows_end,
};
