/* node/role/role_loop.c: the loop around a role's steps, over real ios of the local transport, with the test as coordinator of a
 * pipeline of one stage: when it is ready, when it ends, and what it says then. */
#include "model/pack/pack.h"
#include "node/coordinator/links.h"
#include "node/role/role.h"
#include "tests/check.h"
#include "tests/node/role/world.h"
#include <pthread.h>
#include <semaphore.h>

struct pair {          /* a stage in its thread, and the coordinator's io */
    struct w_world *w; /* for its pack */
    struct sl_plan plan;
    struct sl_stage *stage;
    struct sl_role *role;
    struct sl_role_state state;
    struct sl_fabric *fabric;
    struct sl_io *ios[2];
    uint32_t n_links[2];
    pthread_t thread;
    sem_t ready;
    sl_status status;
    struct sl_err err;
};

static void *run(void *arg)
{
    struct pair *p = arg;
    p->status = sl_role_run(p->role, p->ios[1], p->n_links[1], &p->err);
    return NULL;
}

static void on_ready(void *user)
{
    sem_post(&((struct pair *)user)->ready);
}

static void where_is(void *user, uint32_t node, struct sl_io_address *address)
{
    *address = *sl_io_address(((struct pair *)user)->ios[node]);
}

static bool open_pair(struct pair *p)
{
    static const uint8_t secret[32] = {7};
    *p = (struct pair){.w = w_open(1, 2, 8), .state = {.on_ready = on_ready, .user = p}};
    sem_init(&p->ready, 0, 0);
    struct sl_plan_options options = {.n_stages = 1, .kv_dtype = SL_BF16, .max_running = 2};
    struct sl_share share;
    if (sl_plan_for_shape(&p->plan, sl_pack_shape(p->w->pack), &options, &p->err) != SL_OK ||
        sl_fabric_create(&p->fabric) != SL_OK)
        return false;
    share = sl_plan_share(&p->plan, 0, 1);
    for (uint32_t node = 0; node < 2; node++) {
        struct sl_io_config config = {.transport = &sl_transport_local,
                                      .fabric = p->fabric,
                                      .thread_name = "io",
                                      .limits = {1 << 30, 100, 1 << 20}};
        if (sl_io_create(&p->ios[node], &config, &p->err) != SL_OK)
            return false;
    }
    if (sl_stage_create(&p->stage, p->w->pack, &share, NULL, &p->err) != SL_OK ||
        sl_role_create(&p->role, p->stage, &p->plan, 0, &p->state, &p->err) != SL_OK)
        return false;
    for (uint32_t node = 0; node < 2; node++)
        if (sl_links_open(p->ios[node], &p->plan, node, secret, where_is, p, &p->n_links[node], &p->err) !=
            SL_OK)
            return false;
    return pthread_create(&p->thread, NULL, run, p) == 0;
}

/* The role has ended, or ends now. */
static void close_pair(struct pair *p)
{
    pthread_join(p->thread, NULL);
    for (uint32_t node = 0; node < 2; node++)
        sl_io_destroy(p->ios[node]);
    sl_role_destroy(p->role);
    sl_stage_destroy(p->stage);
    sl_fabric_destroy(p->fabric);
    sem_destroy(&p->ready);
    w_close(p->w);
}

/* The coordinator's io: the next event that is no LINK_UP. */
static struct sl_io_event next_event(struct pair *p)
{
    struct sl_io_event event;
    do {
        if (sl_io_poll(p->ios[0], &event, (int)sl_test_patience_ms(20000)) != SL_OK)
            return (struct sl_io_event){.kind = SL_IO_NUDGE};
    } while (event.kind == SL_IO_LINK_UP);
    return event;
}

static void send_record(struct pair *p, uint8_t *meta, uint64_t number)
{
    struct sl_order_limits limits = sl_plan_order_limits(&p->plan);
    struct sl_order order = {.number = number, .kind = SL_ORDER_FREE, .seq = 4};
    sl_order_pack(meta, &order, NULL, NULL, &limits);
    struct sl_wire wire = {.kind = SL_WIRE_ORDER,
                           .payload_bytes = p->plan.meta_bytes,
                           .meta_bytes = (uint32_t)p->plan.meta_bytes};
    sl_frame_seal(&wire, meta);
    CHECK_INT(sl_io_send(p->ios[0], sl_plan_link_id(&p->plan, 0, 1), &wire, meta, number), SL_OK);
}

SL_TEST(a_role_is_ready_with_its_links_answers_and_ends_when_it_is_told)
{
    struct pair p;
    REQUIRE(open_pair(&p));
    sem_wait(&p.ready);
    CHECK_INT(atomic_load(&p.state.life), SL_LIFE_READY);
    uint8_t *meta = malloc(p.plan.meta_bytes);
    for (uint64_t number = 1; number <= 3; number++) {
        bool answered = false, sent = false;
        send_record(&p, meta, number);
        while (!answered || !sent) {
            struct sl_io_event event = next_event(&p);
            REQUIRE(event.kind == SL_IO_FRAME || event.kind == SL_IO_SENT);
            sent |= event.kind == SL_IO_SENT;
            if (event.kind != SL_IO_FRAME)
                continue;
            CHECK_INT(event.wire.kind, SL_WIRE_RESULT);
            sl_io_release(p.ios[0], event.link, event.slot);
            answered = true;
        }
    }
    free(meta);
    CHECK_INT(atomic_load(&p.state.meter.records), 3);
    sl_role_step_life(&p.state, SL_LIFE_STOP);
    sl_io_nudge(p.ios[1]);
    close_pair(&p);
    CHECK_INT(p.status, SL_OK);
}

SL_TEST(a_role_whose_neighbour_goes_ends_with_a_sentence_that_names_it)
{
    struct pair p;
    REQUIRE(open_pair(&p));
    sem_wait(&p.ready);
    sl_io_drop(p.ios[0], sl_plan_link_id(&p.plan, 0, 1));
    close_pair(&p);
    CHECK_INT(p.status, SL_E_PEER_LOST);
    CHECK_INT(atomic_load(&p.state.life), SL_LIFE_LOST);
    CHECK_CONTAINS(p.err.text, "coordinator was lost (");
    CHECK_CONTAINS(p.err.text, "); this node stops, restart it with the others");
}

SL_TEST(a_role_that_is_sent_what_cannot_be_ends_with_a_sentence)
{
    struct pair p;
    REQUIRE(open_pair(&p));
    sem_wait(&p.ready);
    uint8_t *meta = malloc(p.plan.meta_bytes);
    send_record(&p, meta, 2);
    close_pair(&p);
    free(meta);
    CHECK_INT(p.status, SL_E_PROTOCOL);
    CHECK_CONTAINS(p.err.text, "record 2 from coordinator is not acceptable: record out of order");
}
