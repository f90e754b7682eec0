/* What other threads ask of the coordinator: submit, cancel, drain, wait, load, metrics. Nothing here decides; requests and
 * cancels are queued for the core thread, everything read is a snapshot under the lock. */
#include "base/clock.h"
#include "base/digest.h"
#include "base/text.h"
#include "node/coordinator/coordinator_impl.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- submit ---- */

static sl_status check_ask(const struct sl_coordinator *c, const struct sl_generate *g, struct sl_err *err)
{
    if (g->n_ids == 0)
        return sl_fail(err, SL_E_INVALID, "the prompt is empty; send at least one token");
    if (g->n_ids > c->plan.context_tokens)
        return sl_fail(err, SL_E_INVALID, "the prompt has %u tokens, the context is %u; send a shorter one",
                       g->n_ids, c->plan.context_tokens);
    if (g->max_tokens > c->plan.context_tokens - g->n_ids + (g->max_tokens == 1))
        return sl_fail(
            err, SL_E_INVALID,
            "%u prompt tokens and max_tokens %u are more than the context of %u; ask for at most %u",
            g->n_ids, g->max_tokens, c->plan.context_tokens, c->plan.context_tokens - g->n_ids);
    if (g->n_stop_ids > SL_MAX_STOP_IDS || g->n_stop > SL_MAX_STOP_STRINGS)
        return sl_fail(err, SL_E_INVALID,
                       "%u stop ids and %u stop strings are too many; send at most %d and %d", g->n_stop_ids,
                       g->n_stop, SL_MAX_STOP_IDS, SL_MAX_STOP_STRINGS);
    for (uint32_t i = 0; i < g->n_ids; i++)
        if (g->ids[i] >= c->shape.vocab)
            return sl_fail(err, SL_E_INVALID, "token id %u at position %u is outside the vocabulary of %u",
                           g->ids[i], i, c->shape.vocab);
    for (uint32_t i = 0; i < g->n_stop_ids; i++)
        if (g->stop_ids[i] >= c->shape.vocab)
            return sl_fail(err, SL_E_INVALID, "stop token id %u is outside the vocabulary of %u",
                           g->stop_ids[i], c->shape.vocab);
    if (g->n_stop > 0 && sl_tokenizer_vocab(c->tokenizer) == 0)
        return sl_fail(
            err, SL_E_INVALID,
            "this model has no tokenizer.json, so stop strings can't be found: send stop token ids");
    for (uint32_t i = 0; i < g->n_stop; i++)
        if (g->stop[i][0] == 0)
            return sl_fail(err, SL_E_INVALID, "stop string %u is empty; leave it out", i);
    if (g->prompt_logprobs < -1 || g->prompt_logprobs > SL_MAX_LOGPROBS)
        return sl_fail(err, SL_E_INVALID, "prompt_logprobs %d is not served; ask for 0 to %d",
                       g->prompt_logprobs, SL_MAX_LOGPROBS);
    if (g->min_tokens > g->max_tokens)
        return sl_fail(err, SL_E_INVALID, "min_tokens %u is more than max_tokens %u", g->min_tokens,
                       g->max_tokens);
    if (g->max_tokens > 1 && !c->plan.has_decode)
        return sl_fail(err, SL_E_UNAVAILABLE, "this pipeline has no decode worker; ask for at most 1 token");
    return sl_sampling_check(&g->sampling, err);
}

static sl_status copy_stops(struct sl_coordinator *c, struct sl_request *r, const struct sl_generate *g)
{
    r->ask.n_stop = 0;
    for (uint32_t i = 0; i < g->n_stop; i++) {
        r->ask.stop[i] = strdup(g->stop[i]);
        if (!r->ask.stop[i])
            return SL_E_NOMEM;
        r->ask.n_stop++;
        if (strlen(g->stop[i]) > r->longest_stop)
            r->longest_stop = strlen(g->stop[i]);
    }
    if (g->n_stop == 0)
        return SL_OK;
    sl_detok_init(&r->detok, c->tokenizer, g->skip_special);
    r->tail = malloc(r->longest_stop + sl_detok_room(c->tokenizer) + 1);
    return r->tail ? SL_OK : SL_E_NOMEM;
}

static sl_status make_request(struct sl_coordinator *c, const struct sl_generate *g, struct sl_request **out)
{
    struct sl_request *r = calloc(1, sizeof *r);
    uint32_t *ids = malloc(g->n_ids * sizeof *ids);
    if (!r || !ids) {
        free(r);
        free(ids);
        return SL_E_NOMEM;
    }
    memcpy(ids, g->ids, g->n_ids * sizeof *ids);
    r->ask = *g;
    r->ask.ids = ids;
    r->submit_us = sl_clock_wall_us();
    r->deadline_us = g->deadline_ms >= 0 ? r->submit_us + (uint64_t)g->deadline_ms * 1000u : 0;
    sl_status status = copy_stops(c, r, g);
    if (status == SL_OK && g->prompt_logprobs >= 0) {
        r->prompt = calloc(g->n_ids, sizeof *r->prompt);
        if (!r->prompt)
            status = SL_E_NOMEM;
    }
    if (status == SL_OK)
        *out = r;
    else
        sl_request_free(r);
    return status;
}

static sl_status check_state(struct sl_coordinator *c, const struct sl_generate *g,
                             struct sl_err *err) /* lock held */
{
    if (c->lost)
        return sl_fail(err, SL_E_UNAVAILABLE, "%s", c->lost_sentence);
    if (c->draining)
        return sl_fail(err, SL_E_UNAVAILABLE, "this node is draining; send the request to another");
    if (!c->ready)
        return sl_fail(err, SL_E_UNAVAILABLE, "the pipeline is not complete yet; try again when it is ready");
    if (c->n_requests >= c->config.max_waiting + c->plan.max_running)
        return sl_fail(err, SL_E_EXHAUSTED, "%u requests are queued already; try again later", c->n_requests);
    for (const struct sl_request *r = c->requests; r && g->request_id[0]; r = r->next)
        if (strcmp(r->ask.request_id, g->request_id) == 0 && !r->done)
            return sl_fail(err, SL_E_EXISTS, "a request with the id %s is live; choose another id",
                           g->request_id);
    return SL_OK;
}

static void push_op(struct sl_coordinator *c, struct sl_op_item *op) /* lock held */
{
    *c->ops_tail = op;
    c->ops_tail = &op->next;
}

sl_status sl_coordinator_submit(struct sl_coordinator *c, const struct sl_generate *generate,
                                sl_generated_fn *fn, void *user, uint64_t *handle, struct sl_err *err)
{
    SL_TRY(check_ask(c, generate, err));
    struct sl_request *r = NULL;
    struct sl_op_item *op = calloc(1, sizeof *op);
    if (!op || make_request(c, generate, &r) != SL_OK) {
        free(op);
        return sl_fail(err, SL_E_EXHAUSTED, "out of memory for the request; try again later");
    }
    r->fn = fn;
    r->user = user;
    op->kind = SL_OP_SUBMIT;
    op->request = r;
    pthread_mutex_lock(&c->lock);
    sl_status status = check_state(c, generate, err);
    if (status == SL_OK) {
        *handle = r->seq = c->next_seq++;
        if (r->ask.request_id[0] == 0)
            snprintf(r->ask.request_id, sizeof r->ask.request_id, "sluice-%llx-%llu",
                     (unsigned long long)c->load.started_wall_us, (unsigned long long)r->seq);
        c->load.last_receive_wall_us = r->submit_us;
        r->next = c->requests;
        c->requests = r;
        c->n_requests++;
        push_op(c, op);
    } else {
        c->meter.rejected++;
    }
    pthread_mutex_unlock(&c->lock);
    if (status != SL_OK) {
        sl_request_free(r);
        free(op);
        return status;
    }
    sl_io_nudge(c->io);
    return SL_OK;
}

static sl_status ask(struct sl_coordinator *c, const struct sl_op_item *what)
{
    struct sl_op_item *op = malloc(sizeof *op);
    if (!op)
        return SL_E_NOMEM;
    *op = *what;
    pthread_mutex_lock(&c->lock);
    push_op(c, op);
    pthread_mutex_unlock(&c->lock);
    sl_io_nudge(c->io);
    return SL_OK;
}

/* Without memory for a cancel the request runs to its end: the caller's stream is gone anyway. */
void sl_coordinator_cancel(struct sl_coordinator *c, uint64_t handle)
{
    ask(c, &(struct sl_op_item){.kind = SL_OP_CANCEL, .seq = handle});
}

void sl_coordinator_cancel_id(struct sl_coordinator *c, const char *request_id)
{
    struct sl_op_item op = {.kind = SL_OP_CANCEL_ID};
    snprintf(op.id, sizeof op.id, "%s", request_id);
    ask(c, &op);
}

sl_status sl_coordinator_call(struct sl_coordinator *c, void (*fn)(void *user), void *user)
{
    return ask(c, &(struct sl_op_item){.kind = SL_OP_CALL, .fn = fn, .user = user});
}

void sl_coordinator_mourn(struct sl_coordinator *c, const char *sentence)
{
    struct sl_op_item op = {.kind = SL_OP_MOURN};
    snprintf(op.id, sizeof op.id, "%s", sentence);
    ask(c, &op);
}

/* ---- state ---- */

void sl_coordinator_drain(struct sl_coordinator *c)
{
    pthread_mutex_lock(&c->lock);
    c->draining = true;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static struct timespec deadline_in(uint32_t timeout_ms)
{
    uint64_t at_us = sl_clock_wall_us() + (uint64_t)timeout_ms * 1000u;
    return (struct timespec){(time_t)(at_us / 1000000u), (long)(at_us % 1000000u) * 1000};
}

bool sl_coordinator_wait_idle(struct sl_coordinator *c, uint32_t timeout_ms)
{
    struct timespec until = deadline_in(timeout_ms);
    pthread_mutex_lock(&c->lock);
    while (c->n_requests > 0 && pthread_cond_timedwait(&c->changed, &c->lock, &until) != ETIMEDOUT)
        ;
    bool idle = c->n_requests == 0;
    pthread_mutex_unlock(&c->lock);
    return idle;
}

sl_status sl_coordinator_wait_ready(struct sl_coordinator *c, uint32_t timeout_ms, struct sl_err *err)
{
    struct timespec until = deadline_in(timeout_ms);
    pthread_mutex_lock(&c->lock);
    while (!c->ready && !c->lost && pthread_cond_timedwait(&c->changed, &c->lock, &until) != ETIMEDOUT)
        ;
    sl_status status = SL_OK;
    if (c->lost)
        status = sl_fail(err, SL_E_UNAVAILABLE, "%s", c->lost_sentence);
    else if (!c->ready)
        status =
            sl_fail(err, SL_E_UNAVAILABLE,
                    "the pipeline was not complete after %u s; look at the stages' logs", timeout_ms / 1000);
    pthread_mutex_unlock(&c->lock);
    return status;
}

void sl_coordinator_load(struct sl_coordinator *c, struct sl_load *load)
{
    uint64_t now_second = sl_clock_wall_us() / 1000000u, tokens = 0;
    pthread_mutex_lock(&c->lock);
    *load = c->load;
    for (int i = 0; i < 10; i++)
        if (c->meter.second[i] + 10 > now_second)
            tokens += c->meter.second_tokens[i];
    load->kv_pages_total = load->decode_pages_total = c->plan.n_pages;
    load->max_running = c->plan.max_running;
    load->prompt_tokens = c->meter.prompt_tokens;
    load->output_tokens = c->meter.output_tokens;
    load->requests_ok = c->meter.ok[SL_FINISH_STOP] + c->meter.ok[SL_FINISH_LENGTH];
    load->requests_aborted = c->meter.ok[SL_FINISH_ABORT];
    load->requests_failed = c->meter.failed;
    load->output_tokens_per_s = (double)tokens / 10.0;
    load->ready = c->ready;
    load->draining = c->draining;
    load->n_stages = c->plan.n_stages;
    pthread_mutex_unlock(&c->lock);
}

const struct sl_shape *sl_coordinator_shape(const struct sl_coordinator *c)
{
    return &c->shape;
}
const struct sl_tokenizer *sl_coordinator_tokenizer(const struct sl_coordinator *c)
{
    return c->tokenizer;
}
const char *sl_coordinator_model_path(const struct sl_coordinator *c)
{
    return c->model_path;
}
const char *sl_coordinator_model_name(const struct sl_coordinator *c)
{
    return c->model_name;
}
const char *sl_coordinator_kv_dtype(const struct sl_coordinator *c)
{
    return sl_dtype_name(c->plan.kv_dtype);
}
const struct sl_plan *sl_coordinator_plan(const struct sl_coordinator *c)
{
    return &c->plan;
}
uint32_t sl_coordinator_context(const struct sl_coordinator *c)
{
    return c->plan.context_tokens;
}

void sl_coordinator_set_profile(struct sl_coordinator *c, enum sl_profile profile)
{
    atomic_store(&c->profile_known, 1u + profile);
}

const char *sl_coordinator_profile(const struct sl_coordinator *c)
{
    uint32_t known = atomic_load(&c->profile_known);
    return known ? sl_profile_name((enum sl_profile)(known - 1)) : NULL;
}

/* ---- metrics ---- */

static void add_hist(struct sl_text *t, const char *name, const char *help, const struct sl_hist *h)
{
    static const double bounds[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                    1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
    sl_text_add(t, "# TYPE %s histogram\n# UNIT %s seconds\n# HELP %s %s\n", name, name, name, help);
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
        sl_text_add(t, "%s_bucket{le=\"%g\"} %llu\n", name, bounds[i],
                    (unsigned long long)sl_hist_count_le(h, (uint64_t)(bounds[i] * 1e6)));
    sl_text_add(t, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.6f\n%s_count %llu\n", name,
                (unsigned long long)h->count, name, (double)h->sum_us / 1e6, name,
                (unsigned long long)h->count);
}

static void add_gauge(struct sl_text *t, const char *name, const char *help, double value)
{
    sl_text_add(t, "# TYPE %s gauge\n# HELP %s %s\n%s %.9g\n", name, name, help, name, value);
}

static void add_counter(struct sl_text *t, const char *name, const char *help, uint64_t value)
{
    sl_text_add(t, "# TYPE %s counter\n# HELP %s %s\n%s_total %llu\n", name, name, help, name,
                (unsigned long long)value);
}

static void add_peer_bytes(struct sl_coordinator *c, struct sl_text *t)
{
    struct sl_io_stats io;
    sl_io_stats(c->io, &io);
    sl_text_add(
        t,
        "# TYPE sluice_peer_bytes counter\n# HELP sluice_peer_bytes Payload bytes moved over data links.\n"
        "sluice_peer_bytes_total{dir=\"sent\"} %llu\nsluice_peer_bytes_total{dir=\"received\"} %llu\n",
        (unsigned long long)io.bytes_sent, (unsigned long long)io.bytes_received);
    add_counter(t, "sluice_checksum_failures", "Frames whose payload checksum did not match.",
                io.checksum_failures);
    add_gauge(t, "sluice_links_up", "Data links of this node that are up.", (double)io.links_up);
}

void sl_coordinator_metrics(struct sl_coordinator *c, struct sl_text *t)
{
    struct sl_load load;
    sl_coordinator_load(c, &load);
    add_gauge(t, "sluice_ready", "1 when every stage has joined and the node takes requests.",
              load.ready && !load.draining);
    add_gauge(t, "sluice_requests_running", "Requests that hold pages.", load.running);
    add_gauge(t, "sluice_requests_waiting", "Requests in the queue.", load.waiting);
    add_gauge(t, "sluice_prefill_tokens_waiting_uncached",
              "Prompt tokens admitted or queued and not yet in the order log.", load.waiting_tokens);
    add_gauge(t, "sluice_kv_cache_usage_ratio",
              "Share of each stage's KV pages that is promised to requests.",
              (double)load.kv_pages_used / (double)load.kv_pages_total);
    add_gauge(t, "sluice_decode_kv_cache_usage_ratio",
              "Share of the decode worker's KV pages that is promised to requests.",
              (double)load.decode_pages_used / (double)load.decode_pages_total);
    sl_text_add(t,
                "# TYPE sluice_cache_config info\n# HELP sluice_cache_config The KV pools.\n"
                "sluice_cache_config_info{block_size=\"%d\",num_blocks=\"%u\",dtype=\"%s\"} 1\n",
                SL_PAGE, load.kv_pages_total, sl_coordinator_kv_dtype(c));
    add_counter(t, "sluice_generation_tokens", "Output tokens.", load.output_tokens);
    add_peer_bytes(c, t);
    pthread_mutex_lock(&c->lock);
    const struct sl_coordinator_meter *m = &c->meter;
    sl_text_add(t,
                "# TYPE sluice_prompt_tokens counter\n# HELP sluice_prompt_tokens Prompt tokens prefilled.\n"
                "sluice_prompt_tokens_total{source=\"compute\"} %llu\n",
                (unsigned long long)m->prompt_tokens);
    sl_text_add(t,
                "# TYPE sluice_requests counter\n# HELP sluice_requests Requests that have ended.\n"
                "sluice_requests_total{code=\"OK\",finish_reason=\"stop\"} %llu\n"
                "sluice_requests_total{code=\"OK\",finish_reason=\"length\"} %llu\n"
                "sluice_requests_total{code=\"OK\",finish_reason=\"abort\"} %llu\n"
                "sluice_requests_total{code=\"error\",finish_reason=\"none\"} %llu\n",
                (unsigned long long)m->ok[SL_FINISH_STOP], (unsigned long long)m->ok[SL_FINISH_LENGTH],
                (unsigned long long)m->ok[SL_FINISH_ABORT], (unsigned long long)m->failed);
    add_counter(t, "sluice_requests_rejected", "Requests refused at submission.", m->rejected);
    add_hist(t, "sluice_time_to_first_token_seconds", "From submission to the first output token.", &m->ttft);
    add_hist(t, "sluice_request_queue_seconds", "From submission to admission.", &m->queue);
    add_hist(t, "sluice_request_prefill_seconds", "From admission to the first output token.", &m->prefill);
    add_hist(t, "sluice_inter_token_latency_seconds", "Between output tokens of a request.", &m->inter_token);
    add_hist(t, "sluice_request_seconds", "From submission to the end.", &m->e2e);
    pthread_mutex_unlock(&c->lock);
}
