/* Loads of the simulator (load.h): what a trace or a process says of times and lengths, and a seed of all else. */
#include "bench/simulate/load.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- what was said ---- */

static const char word[] = "poisson:";

static sl_status wrong(const char *text, struct sl_err *err)
{
    return sl_fail(
        err, SL_E_USAGE,
        "--load %.80s is not poisson:RATE[,in=LENGTH][,out=LENGTH] with a rate above 0 and up to 1e6 "
        "requests per second, nor the name of a trace",
        text);
}

static sl_status take_length(struct sl_length *length, const char **at, struct sl_err *err)
{
    char one[64];
    size_t n = strcspn(*at, ",");
    if (n >= sizeof one)
        return sl_fail(err, SL_E_USAGE, "--load: %.40s... is no length", *at);
    memcpy(one, *at, n);
    one[n] = 0;
    *at += n;
    return sl_length_parse(length, one, err);
}

static sl_status take_process(struct sl_sim_load *load, const char *text, struct sl_err *err)
{
    char *end;
    const char *at = text + sizeof word - 1;
    load->rate = strtod(at, &end);
    if (end == at || !(load->rate > 0 && load->rate <= 1e6))
        return wrong(text, err);
    for (at = end; *at;) {
        struct sl_length *length = strncmp(at, ",in=", 4) == 0 ? &load->input : &load->output;
        size_t n = length == &load->input ? 4 : 5;
        if (length == &load->output && strncmp(at, ",out=", 5) != 0)
            return wrong(text, err);
        at += n;
        SL_TRY(take_length(length, &at, err));
    }
    return SL_OK;
}

sl_status sl_sim_load_read(struct sl_sim_load *load, const char *text, uint32_t n_requests,
                           uint32_t context_tokens, struct sl_err *err)
{
    *load = (struct sl_sim_load){.n_requests = n_requests,
                                 .context_tokens = context_tokens,
                                 .input = {SL_LENGTH_LOGNORMAL, 100, 1},
                                 .output = {SL_LENGTH_UNIFORM, 1, 40}};
    if (strncmp(text, word, sizeof word - 1) == 0)
        return take_process(load, text, err);
    SL_TRY(sl_arrival_trace_read(&load->trace, text, n_requests, err));
    load->n_requests = load->trace->n_rows;
    return SL_OK;
}

void sl_sim_load_fini(struct sl_sim_load *load)
{
    sl_arrival_trace_free(load->trace);
    load->trace = NULL;
}

/* ---- the requests of a seed ---- */

sl_status sl_sim_history_init(struct sl_sim_history *h, const struct sl_sim_load *load, struct sl_err *err)
{
    size_t n = load->n_requests, context = load->context_tokens;
    *h = (struct sl_sim_history){.n = load->n_requests,
                                 .context_tokens = load->context_tokens,
                                 .requests = calloc(n, sizeof *h->requests),
                                 .ids = calloc(n * context, sizeof *h->ids),
                                 .tokens = calloc(n * context * SL_SIM_ANSWERS, sizeof *h->tokens),
                                 .steering = calloc(n, SL_SIM_STEERING)};
    return h->requests && h->ids && h->tokens && h->steering
               ? SL_OK
               : sl_fail(err, SL_E_NOMEM, "no memory for %u requests; ask for fewer (--requests)", h->n);
}

void sl_sim_history_fini(struct sl_sim_history *h)
{
    free(h->requests);
    free(h->ids);
    free(h->tokens);
    free(h->steering);
    *h = (struct sl_sim_history){0};
}

static uint32_t draw(struct sl_rng *rng, uint32_t below)
{
    return (uint32_t)(sl_rng_next(rng) % below);
}

static void draw_lengths(struct sl_sim_history *h, const struct sl_sim_load *load, uint32_t i,
                         struct sl_rng *rng)
{
    struct sl_sim_request *r = &h->requests[i];
    uint32_t input, output;
    if (load->trace) {
        input = load->trace->rows[i].input_tokens;
        output = load->trace->rows[i].output_tokens;
    } else {
        input = sl_length_draw(&load->input, rng);
        output = sl_length_draw(&load->output, rng);
    }
    h->n_cut += input >= h->context_tokens;
    r->n_ids = input < h->context_tokens ? input : h->context_tokens - 1;
    r->max_tokens = output < h->context_tokens - r->n_ids ? output : h->context_tokens - r->n_ids;
}

/* Half begin as another one does, up to anywhere, some under a salt. */
static void draw_ids(struct sl_sim_history *h, uint32_t i, struct sl_rng *rng)
{
    uint32_t *ids = h->ids + (size_t)i * h->context_tokens;
    uint32_t like = draw(rng, i + 1), n_like = draw(rng, 2) ? draw(rng, h->context_tokens) : 0;
    const uint32_t *other = h->ids + (size_t)like * h->context_tokens;
    h->requests[i].ids = ids;
    h->requests[i].salt = draw(rng, 4) ? 0 : (uint8_t)draw(rng, 3);
    for (uint32_t k = 0; k < h->context_tokens; k++)
        ids[k] = k < n_like && like < i ? other[k] : draw(rng, SL_WORLD_VOCAB);
}

/* A bias, and what the prompt holds if that counts. */
static void draw_steering(struct sl_sim_history *h, uint32_t i, struct sl_rng *rng)
{
    uint64_t seen[SL_WORLD_VOCAB / 64] = {0};
    struct sl_bias bias[8];
    struct sl_sim_request *r = &h->requests[i];
    uint32_t n_bias = draw(rng, 8), n_ids = 0;
    for (uint32_t k = 0; k < n_bias; k++)
        bias[k] = (struct sl_bias){15 * k + i % 15, 1};
    if (draw(rng, 2)) {
        r->repetition_penalty = 1.25f;
        n_ids = sl_ids_mark(seen, r->ids, r->n_ids);
    }
    r->presence_penalty = draw(rng, 2) ? 0.5f : 0;
    r->steering_bytes = sl_steering_bytes(n_bias, n_ids, SL_WORLD_VOCAB);
    if (r->steering_bytes == 0)
        return;
    assert(r->steering_bytes <= SL_SIM_STEERING);
    r->steering = h->steering + (size_t)i * SL_SIM_STEERING;
    sl_steering_pack(h->steering + (size_t)i * SL_SIM_STEERING, bias, n_bias, seen, n_ids, SL_WORLD_VOCAB);
}

static void draw_wishes(struct sl_sim_history *h, uint32_t i, uint32_t most_n, struct sl_rng *rng)
{
    static const char *const tenants[] = {NULL, "one", "another"};
    struct sl_sim_request *r = &h->requests[i];
    uint32_t most = most_n < SL_SIM_ANSWERS ? most_n : SL_SIM_ANSWERS;
    r->seed = sl_rng_next(rng);
    r->temperature = draw(rng, 3) ? 1 : 0;
    r->tenant = tenants[draw(rng, 3)];
    r->priority = (int32_t)draw(rng, 5) - 2;
    r->n = draw(rng, 4) ? 1 : 1 + draw(rng, most);
    while (r->n > 1 && r->n_ids / SL_PAGE + 2 * r->n > h->context_tokens / SL_PAGE)
        r->n--; /* all of them can begin at once, in any of the pools */
    if (draw(rng, 4) == 0)
        r->text_ends_at = 1 + draw(rng, 20);
    if (draw(rng, 4) == 0)
        r->min_tokens = draw(rng, r->max_tokens + 1);
    if (draw(rng, 10) == 0)
        r->target_us = r->arrive_us + 1 + draw(rng, 200000);
    if (draw(rng, 10) == 0)
        r->deadline_us = r->arrive_us + 1 + draw(rng, 400000);
    if (draw(rng, 5) == 0)
        draw_steering(h, i, rng);
}

void sl_sim_history_draw(struct sl_sim_history *h, const struct sl_sim_load *load, uint32_t faults,
                         uint32_t most_n, uint64_t seed)
{
    struct sl_rng rng = {seed, 1};
    struct sl_arrivals arrivals = {.kind = SL_ARRIVAL_POISSON, .shape = 1};
    sl_arrivals_begin(&arrivals, load->trace ? 1 : load->rate, seed);
    h->n_cut = 0;
    for (uint32_t i = 0; i < h->n; i++) {
        struct sl_sim_request *r = &h->requests[i];
        *r = (struct sl_sim_request){0};
        for (uint32_t k = 0; k < SL_SIM_ANSWERS; k++)
            r->answers[k].tokens = h->tokens + ((size_t)i * SL_SIM_ANSWERS + k) * h->context_tokens;
        r->arrive_us = load->trace ? load->trace->rows[i].at_us : sl_arrivals_next(&arrivals) / 1000;
        draw_lengths(h, load, i, &rng);
        draw_ids(h, i, &rng);
        draw_wishes(h, i, most_n, &rng);
        if (sl_sim_has(faults, SL_SIM_LOST_CLIENT) && draw(&rng, 5) == 0)
            r->cancel_us = r->arrive_us + 1 + draw(&rng, draw(&rng, 2) ? 20000 : 400000);
    }
}
