/* Loads as schedule_load.h has them. Each quantity of a request is drawn by its own number, so a longer load begins as a
 * shorter one does, and another rate only moves the times. */
#include "bench/schedule_load.h"
#include "base/rng.h"
#include <math.h>
#include <stdlib.h>

enum {
    SHORT_WIDTH = 128,
    FULL_WIDTH = 64,
    GROWTH_WIDTH = 256,
    BURST = 20,
    MEAN_OF = 100000,
    MIX_TOKENS = 64,
    TEXTS = 4,
    TURN = 2048,
    ANSWER = 1024
};
enum { DRAW_GAP, DRAW_LENGTH, DRAW_KIND, DRAW_ANGLE, DRAW_OUTPUT, DRAW_OUTPUT_ANGLE, DRAWS };
static const double VICTIM = 0.3, FLOODER = 3.0, SHORTS = 0.3, SHARED = 0.8;

const char *sl_bench_traffic_name(enum sl_bench_traffic_kind kind)
{
    static const char *const names[SL_BENCH_TRAFFICS] = {"mix",      "alone",   "short",  "full",   "long",
                                                         "overload", "tenants", "growth", "prefix", "chat"};
    return names[kind];
}

enum { OTHERS, FIRST_TURN, SECOND_TURN };

const char *sl_bench_group_name(enum sl_bench_traffic_kind kind, uint32_t group)
{
    static const char *const names[SL_BENCH_TRAFFICS][SL_BENCH_GROUPS] = {
        [SL_BENCH_TENANTS] = {"victim", "flooder"},
        [SL_BENCH_PREFIX] = {"own", "shared"},
        [SL_BENCH_CHAT] = {[OTHERS] = "others", [FIRST_TURN] = "first", [SECOND_TURN] = "second"},
    };
    return names[kind][group];
}

enum sl_bench_class sl_bench_class_of(uint32_t n)
{
    return n <= 1024 ? SL_BENCH_CLASS_SHORT : n <= 8000 ? SL_BENCH_CLASS_MIDDLE : SL_BENCH_CLASS_LONG;
}

struct draws {
    uint64_t seed, index; /* of the request */
};

static double unit(struct draws d, uint32_t what)
{
    return sl_rng_unit(sl_rng_at(d.seed, d.index * DRAWS + what));
}

/* Of mean 1: the gap between arrivals that know nothing of each other. */
static double gap(struct draws d)
{
    return -log1p(-unit(d, DRAW_GAP));
}

/* Box and Muller, of two draws. */
static double normal(struct draws d, uint32_t radius, uint32_t angle)
{
    return sqrt(-2 * log(unit(d, radius) + 1e-12)) * cos(6.283185307179586 * unit(d, angle));
}

/* As many in each octave. */
static double log_uniform(double least, double most, double u)
{
    return least * pow(most / least, u);
}

static double few_long(struct draws d, const struct sl_bench_shape *shape)
{
    return unit(d, DRAW_KIND) < 0.02
               ? log_uniform(8192, fmin(32768, shape->context - 64.0), unit(d, DRAW_LENGTH))
               : log_uniform(64, 512, unit(d, DRAW_LENGTH));
}

/* Log-normal around 6,900 tokens, as the published Mooncake trace of conversations. */
static double conversation(struct draws d, const struct sl_bench_shape *shape)
{
    double n = exp(log(6900) + 1.064 * normal(d, DRAW_LENGTH, DRAW_ANGLE)), most = 126000;
    most = most < shape->context - 1024.0 ? most : shape->context - 1024.0;
    return n < 64 ? 64 : n > most ? most : n;
}

static double length_of(const struct sl_bench_traffic_config *c, struct draws d, bool closed)
{
    switch (c->kind) {
    case SL_BENCH_MIX:
        return closed ? 8192 + fmin(8192, c->shape->context - 8256.0) * unit(d, DRAW_LENGTH) : MIX_TOKENS;
    case SL_BENCH_ALONE:
        return MIX_TOKENS;
    case SL_BENCH_SHORT:
    case SL_BENCH_GROWTH:
        return log_uniform(64, 512, unit(d, DRAW_LENGTH));
    case SL_BENCH_LONG:
        return c->tokens;
    case SL_BENCH_FULL:
    case SL_BENCH_OVERLOAD:
        return c->shape->is_large ? conversation(d, c->shape) : few_long(d, c->shape);
    case SL_BENCH_PREFIX:
        return c->tokens + log_uniform(64, 512, unit(d, DRAW_LENGTH));
    case SL_BENCH_TENANTS:
    case SL_BENCH_CHAT:
    case SL_BENCH_TRAFFICS:
        break;
    }
    return few_long(d, c->shape);
}

static void draw(const struct sl_bench_traffic_config *c, struct draws d, bool closed,
                 struct sl_bench_request *r)
{
    bool has_target = c->kind == SL_BENCH_OVERLOAD || c->kind == SL_BENCH_TENANTS;
    *r = (struct sl_bench_request){.n = (uint32_t)length_of(c, d, closed), .n_out = 1, .max_tokens = 1};
    r->work_us = sl_bench_shape_work(c->shape, r->n);
    if (has_target)
        r->target_us = c->shape->target_us + 3 * sl_bench_shape_alone(c->shape, r->n);
    if (c->kind == SL_BENCH_PREFIX && unit(d, DRAW_KIND) < SHARED) {
        r->group = 1;
        r->text = (uint32_t)(unit(d, DRAW_ANGLE) * TEXTS);
        r->n_text = r->n_known = c->tokens;
        r->work_us -= sl_bench_shape_work(c->shape, r->n_text);
    }
    if (c->kind != SL_BENCH_GROWTH)
        return;
    double n_out = 300 * exp(0.9 * normal(d, DRAW_OUTPUT, DRAW_OUTPUT_ANGLE) - 0.405);
    r->n_out = n_out < 8190 ? 2 + (uint32_t)n_out : 8192; /* the last stage's token is never the last */
    r->max_tokens = c->shape->context - r->n;
}

/* The first turn of a conversation. */
static void draw_turn(const struct sl_bench_traffic_config *c, struct sl_bench_request *r)
{
    *r = (struct sl_bench_request){.n = TURN,
                                   .n_out = ANSWER,
                                   .max_tokens = ANSWER,
                                   .group = FIRST_TURN,
                                   .work_us = sl_bench_shape_work(c->shape, TURN),
                                   .pause_us = c->pause_us};
}

/* The second: all that was said before, and a message. What was said counts as known, by whichever way it comes to be. */
static void draw_second(const struct sl_bench_traffic_config *c, struct draws d, struct sl_bench_request *r)
{
    uint32_t known = TURN + ANSWER, n = known + (uint32_t)log_uniform(64, 256, unit(d, DRAW_LENGTH));
    *r = (struct sl_bench_request){.n = n,
                                   .n_known = known,
                                   .n_out = 1,
                                   .max_tokens = 1,
                                   .group = SECOND_TURN,
                                   .work_us = sl_bench_shape_work(c->shape, n) -
                                              sl_bench_shape_work(c->shape, known)};
}

/* Microseconds of the pipeline that a request of this load takes in the mean. */
static double mean_work(const struct sl_bench_traffic_config *c)
{
    if (c->kind == SL_BENCH_MIX || c->kind == SL_BENCH_ALONE) { /* a chunk of its own each */
        struct sl_cost_chunk one = {0};
        sl_cost_add(&one, 0, MIX_TOKENS);
        return sl_bench_shape_us(c->shape, &one);
    }
    double sum = 0;
    for (uint64_t i = 0; i < MEAN_OF; i++) {
        struct sl_bench_request r;
        draw(c, (struct draws){12345, i}, false, &r); /* of the distribution: the same for every seed */
        sum += r.work_us;
    }
    return sum / MEAN_OF;
}

static int by_time(const void *a, const void *b)
{
    double x = ((const struct sl_bench_request *)a)->at_us, y = ((const struct sl_bench_request *)b)->at_us;
    return (x > y) - (x < y);
}

/* The flooder, for as long as the other one comes. */
static void add_flood(struct sl_bench_traffic *load, const struct sl_bench_traffic_config *c, uint32_t room)
{
    double mean = mean_work(c), until = load->requests[load->n_open - 1].at_us, at = 0;
    for (uint64_t i = 0; load->n_open + BURST <= room; i++) {
        at += gap((struct draws){c->seed + 2, i * BURST}) * BURST * mean / FLOODER;
        if (at > until)
            break;
        for (uint32_t k = 0; k < BURST; k++) {
            struct sl_bench_request *r = &load->requests[load->n_open++];
            draw(c, (struct draws){c->seed + 2, i * BURST + k}, false, r);
            r->at_us = at + 10.0 * k;
            r->tenant = r->group = 1;
        }
    }
    qsort(load->requests, load->n_open, sizeof *load->requests, by_time);
}

/* Of the capacity: as much as one decode worker takes, which has slow stages or fast ones before it. */
static double chats_of(const struct sl_bench_traffic_config *c)
{
    return fmin(c->shape->is_large ? 0.02 : 0.1, c->rate);
}

/* Conversations, and others at the rest of the rate. */
static void add_chats(struct sl_bench_traffic *load, const struct sl_bench_traffic_config *c)
{
    struct sl_bench_request first, second;
    uint32_t n = c->n_requests;
    double chats = chats_of(c), at = 0;
    struct sl_bench_traffic_config rest = *c;
    rest.kind = SL_BENCH_OVERLOAD;
    draw_turn(c, &first);
    draw_second(c, (struct draws){c->seed, 0}, &second);
    double chat_each = (first.work_us + second.work_us) / chats,
           other_each = c->rate > chats ? mean_work(&rest) / (c->rate - chats) : HUGE_VAL,
           is_chat = 1 / chat_each / (1 / chat_each + 1 / other_each);
    for (uint64_t i = 0; i < n; i++) {
        struct draws d = {c->seed, i};
        struct sl_bench_request *r = &load->requests[load->n_open++];
        if (sl_rng_unit(sl_rng_at(c->seed ^ 0xC4A7, i)) < is_chat) {
            draw_turn(c, r);
            draw_second(c, d, &load->requests[n + load->n_turns]);
            load->requests[n + load->n_turns++].before = (uint32_t)i + 1;
            r->next = n + load->n_turns;
        } else {
            draw(&rest, d, false, r);
        }
        r->at_us = at += gap(d) / (1 / chat_each + 1 / other_each);
    }
}

static uint32_t width_of(const struct sl_bench_traffic_config *c)
{
    switch (c->kind) {
    case SL_BENCH_MIX:
        return c->shape->n_long;
    case SL_BENCH_SHORT:
        return SHORT_WIDTH;
    case SL_BENCH_FULL:
        return FULL_WIDTH;
    case SL_BENCH_GROWTH:
        return GROWTH_WIDTH;
    case SL_BENCH_LONG:
        return 1;
    default:
        return 0;
    }
}

sl_status sl_bench_traffic_init(struct sl_bench_traffic *load, const struct sl_bench_traffic_config *c,
                                struct sl_err *err)
{
    bool opens = c->kind == SL_BENCH_MIX || width_of(c) == 0, flood = c->kind == SL_BENCH_TENANTS,
         chats = c->kind == SL_BENCH_CHAT;
    uint32_t n = c->n_requests, room = flood ? n * (uint32_t)(2 + FLOODER / VICTIM) + BURST : 2 * n;
    *load = (struct sl_bench_traffic){.width = width_of(c),
                                      .repeats = c->kind == SL_BENCH_PREFIX || c->kind == SL_BENCH_CHAT};
    load->requests = calloc(room, sizeof *load->requests);
    if (!load->requests)
        return sl_fail(err, SL_E_NOMEM, "out of memory for %u requests; ask for fewer", room);
    double at = 0,
           rate = flood                                                        ? VICTIM
                  : c->kind == SL_BENCH_OVERLOAD || c->kind == SL_BENCH_PREFIX ? c->rate
                                                                               : SHORTS,
           each = opens && !chats ? mean_work(c) / rate : 0;
    if (chats)
        add_chats(load, c);
    for (uint64_t i = 0; opens && !chats && i < n; i++) {
        struct sl_bench_request *r = &load->requests[load->n_open++];
        draw(c, (struct draws){c->seed, i}, false, r);
        r->at_us = at += gap((struct draws){c->seed, i}) * each;
    }
    if (flood)
        add_flood(load, c, room);
    for (uint64_t i = 0; load->width > 0 && i < n; i++)
        draw(c, (struct draws){c->seed + 1, i}, true, &load->requests[load->n_open + load->n_closed++]);
    load->n = load->n_open + load->n_closed + load->n_turns;
    return SL_OK;
}

void sl_bench_traffic_fini(struct sl_bench_traffic *load)
{
    free(load->requests);
    load->requests = NULL;
}
