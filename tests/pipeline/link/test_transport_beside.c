/* pipeline/link/transport_beside.c alone: the transport inside it and who carries the rows are told here what to do and when, so that it
 * meets what no real one of either does in a test. What it does over real ones: test_io.c, test_transport_nccl.c, test_transport_ucx_rows.c. */
#include "tests/pipeline/link/two_ends.h"

#include "pipeline/link/link_impl.h"
#include "pipeline/link/transport_beside.h"
#include <signal.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

enum { ROWS = 2000, THINGS = 2 * (1 + SL_SLOTS_MAX) /* each way has a stream, and an event for each slot */ };

static struct inner { /* the transport inside, and who carries */
    int n_progress, n_sent;
    int ends_at; /* at so many rounds of progress rows are home; -1: never */
    int n_asked; /* whether they are, since a round */
} now;

static sl_status inner_open(struct sl_transport **transport, struct sl_hub *hub,
                            const struct sl_io_config *config, struct sl_err *err)
{
    (void)hub, (void)config, (void)err;
    *transport = (struct sl_transport *)(void *)&now;
    return SL_OK;
}

static void inner_close(struct sl_transport *transport)
{
    (void)transport;
}

static void inner_send(struct sl_line *line, struct sl_sending *sending)
{
    (void)line;
    now.n_sent++;
    sl_sending_done(sending, SL_OK);
}

static bool inner_progress(struct sl_transport *transport)
{
    (void)transport;
    now.n_progress++;
    now.n_asked = 0;
    return false;
}

static sl_status carrier_open(void **carrier, const struct sl_io_config *config, struct sl_err *err)
{
    (void)config, (void)err;
    *carrier = NULL;
    return SL_OK;
}

static void carrier_close(void *carrier)
{
    (void)carrier;
}

static int carrier_draw(void *carrier, uint8_t id[SL_BESIDE_ID_BYTES], const char **detail)
{
    (void)carrier, (void)detail;
    memset(id, 1, SL_BESIDE_ID_BYTES);
    return 1;
}

static int carrier_meet(struct sl_way *way, const uint8_t id[SL_BESIDE_ID_BYTES], const char **detail)
{
    (void)way, (void)id, (void)detail;
    return 1;
}

static int carrier_is_up(struct sl_way *way, const char **detail)
{
    (void)way, (void)detail;
    return 1;
}

static int carrier_begin(struct sl_way *way, struct sl_rows_op *op, const char **detail)
{
    (void)way, (void)op, (void)detail;
    return 1;
}

static int carrier_is_through(struct sl_way *way, struct sl_rows_op *op, const char **detail)
{
    (void)way, (void)op, (void)detail;
    return 0; /* the peer fetches nothing */
}

static bool carrier_end(struct sl_way *way)
{
    (void)way;
    if (now.n_asked++ > 10000) {
        sl_test_fail(__FILE__, __LINE__, "nobody has what carries the rows go on");
        return true;
    }
    return now.ends_at >= 0 && now.n_progress >= now.ends_at;
}

/* A device of which nothing is asked but things to lend. */
static int n_lent, n_things; /* of so many */

static void *lend(void *user)
{
    (void)user;
    if (n_lent == n_things)
        return NULL;
    n_lent++;
    return &n_lent;
}

static void take_back(void *user, void *thing)
{
    (void)user, (void)thing;
    n_lent--;
}

static const struct sl_rows_device device = {.twin = true,
                                             .stream_open = lend,
                                             .stream_close = take_back,
                                             .event_open = lend,
                                             .event_close = take_back,
                                             .address = host_address};

static const struct sl_transport_ops inner_ops = {.name = "inner",
                                                  .open = inner_open,
                                                  .close = inner_close,
                                                  .send = inner_send,
                                                  .progress = inner_progress};
static const struct sl_rows_carrier carrier_ops = {.name = "test",
                                                   .hint = "",
                                                   .open = carrier_open,
                                                   .close = carrier_close,
                                                   .draw = carrier_draw,
                                                   .meet = carrier_meet,
                                                   .is_up = carrier_is_up,
                                                   .begin = carrier_begin,
                                                   .is_through = carrier_is_through,
                                                   .end = carrier_end};

struct lone_end { /* of a line that is up, with what a hub has of it */
    struct sl_transport_ops ops;
    struct sl_hub hub;
    struct sl_link link;
    struct sl_conn *conn;
    struct sl_sending sendings[SL_SLOTS_MAX + 2];
};

/* Its line has been called. */
static bool end_call(struct lone_end *end, int things)
{
    uint8_t id[SL_BESIDE_ID_BYTES];
    struct sl_err err;
    n_things = things;
    memset(end, 0, sizeof *end);
    now = (struct inner){.ends_at = 0};
    fill_pool();
    if (!(end->conn = calloc(1, sizeof *end->conn)))
        return false;
    end->ops = sl_transport_local_nccl;
    end->ops.inner = &inner_ops;
    end->ops.carrier = &carrier_ops;
    end->hub.ops = &end->ops;
    end->hub.config = config_of(&end->ops, &(struct world){0});
    end->hub.config.rows_device = &device;
    end->hub.conns = end->conn;
    end->conn->hub = &end->hub;
    end->conn->line = (struct sl_line *)(void *)&now;
    return end->ops.open(&end->hub.transport, &end->hub, &end->hub.config, &err) == SL_OK &&
           end->ops.offer(end->conn->line, end->conn, id);
}

static bool end_open(struct lone_end *end)
{
    static const uint8_t id[SL_BESIDE_ID_BYTES] = {2};
    if (!end_call(end, THINGS) || end->ops.join(end->conn, id) != SL_AGAIN)
        return false;
    end->ops.progress(end->hub.transport);
    return true;
}

/* One frame with rows, as the hub sends it. */
static void end_send(struct lone_end *end, int n)
{
    struct sl_sending *sending = &end->sendings[n];
    sending->conn = end->conn;
    sending->link = &end->link;
    sending->wire = (struct sl_wire){
        .kind = SL_WIRE_ORDER, .number = (uint64_t)n, .payload_bytes = 64 + ROWS, .meta_bytes = 64};
    sending->payload = pool;
    sending->bytes = 64 + ROWS;
    end->conn->n_sends++;
    end->conn->bytes_under_way += sending->bytes;
    end->ops.send(end->conn->line, sending);
}

/* A peer counts as delivered what it has not fetched, and lends its slots again and again. */
SL_TEST(credit_for_rows_that_are_not_fetched_is_the_end_of_a_line)
{
    static struct lone_end end;
    REQUIRE(end_open(&end));
    for (int n = 0; n < SL_SLOTS_MAX; n++)
        end_send(&end, n);
    CHECK_INT(end.conn->n_sends, SL_SLOTS_MAX);
    CHECK_INT(end.conn->fault, SL_OK);
    for (int n = SL_SLOTS_MAX; n < SL_SLOTS_MAX + 2; n++) {
        end_send(&end, n);
        CHECK(!end.sendings[n].conn); /* it is home */
    }
    CHECK_INT(now.n_sent, SL_SLOTS_MAX);
    CHECK_INT(end.conn->n_sends, SL_SLOTS_MAX);
    CHECK_INT(end.conn->fault, SL_E_PEER_LOST);
    CHECK_CONTAINS(end.conn->reason ? end.conn->reason : "", "credit");
    end.ops.leave(end.conn);
    CHECK_INT(end.conn->n_sends, 0);
    for (int n = 0; n < SL_SLOTS_MAX; n++)
        CHECK(!end.sendings[n].conn && end.sendings[n].bytes == 64 + ROWS && end.sendings[n].payload == pool);
    sl_conn_closed(end.conn);
    CHECK(!end.hub.conns);
    CHECK_INT(n_lent, 0);
    end.ops.close(end.hub.transport);
}

SL_TEST(a_line_takes_streams_when_its_peer_has_proved_who_it_is)
{
    static const uint8_t id[SL_BESIDE_ID_BYTES] = {2};
    static const int things[] = {0, 1, SL_SLOTS_MAX, 1 + SL_SLOTS_MAX, THINGS - 1, THINGS};
    static struct lone_end end;
    for (size_t i = 0; i < sizeof things / sizeof *things; i++) {
        bool suffices = things[i] == THINGS;
        REQUIRE(end_call(&end, things[i]));
        CHECK_INT(n_lent, 0);
        CHECK_INT(end.ops.join(end.conn, id), suffices ? SL_AGAIN : SL_E_UNAVAILABLE);
        CHECK_INT(n_lent, things[i]);
        CHECK(suffices || strstr(end.conn->reason, "no streams or events left"));
        end.ops.leave(end.conn);
        sl_conn_closed(end.conn);
        CHECK_INT(n_lent, 0);
        end.ops.close(end.hub.transport);
    }
}

SL_TEST(rows_under_way_come_home_when_their_transport_is_closed)
{
    static struct lone_end end;
    REQUIRE(end_open(&end));
    for (int n = 0; n < 3; n++)
        end_send(&end, n);
    now.ends_at = now.n_progress + 3;
    end.ops.close(end.hub.transport);
    CHECK(now.n_progress >= now.ends_at);
    CHECK_INT(end.conn->n_sends, 0);
    CHECK_INT(n_lent, 0);
    free(end.conn);
}

SL_TEST(rows_that_never_come_home_do_not_keep_a_process_from_its_end)
{
    static struct lone_end end;
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (!end_open(&end))
            _exit(1);
        end_send(&end, 0);
        now.ends_at = -1;
        end.ops.close(end.hub.transport);
        _exit(2);
    }
    REQUIRE(child > 0);
    uint64_t until = sl_clock_ns() + give_up_ms() * UINT64_C(1000000);
    while (waitpid(child, &status, WNOHANG) == 0)
        if (sl_clock_ns() < until)
            usleep(1000);
        else
            kill(child, SIGKILL);
    CHECK(WIFEXITED(status));
    CHECK_INT(WEXITSTATUS(status), EX_UNAVAILABLE);
}
