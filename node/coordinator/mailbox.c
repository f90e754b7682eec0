/* What other threads ask of the coordinator's: each is a post in its mailbox, which is a list without a lock, and everything
 * that is read is the latest that the thread has published. The values of a request are checked here, once. */
#include "base/clock.h"
#include "node/coordinator/coordinator_impl.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- posts ---- */

void sl_mailbox_post(struct sl_coordinator *c, struct sl_post *p)
{
    atomic_fetch_add(&c->n_posted, 1);
    p->next = atomic_load(&c->posts);
    while (!atomic_compare_exchange_weak(&c->posts, &p->next, p))
        ;
    sl_io_nudge(c->io);
}

static sl_status post_copy(struct sl_coordinator *c, const struct sl_post *what)
{
    struct sl_post *p = malloc(sizeof *p);
    if (!p)
        return SL_E_NOMEM;
    *p = *what;
    sl_mailbox_post(c, p);
    return SL_OK;
}

struct sl_post *sl_mailbox_take(struct sl_coordinator *c)
{
    struct sl_post *newest = atomic_exchange(&c->posts, NULL), *oldest = NULL;
    while (newest) {
        struct sl_post *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

void sl_post_free(struct sl_coordinator *c, struct sl_post *p)
{
    if (p != &c->last)
        free(p);
}

void sl_mailbox_stop(struct sl_coordinator *c)
{
    c->last = (struct sl_post){.kind = SL_POST_STOP};
    sl_mailbox_post(c, &c->last);
}

/* ---- submit ---- */

static sl_status check_bias(const struct sl_generate *g, uint32_t vocab, struct sl_err *err)
{
    if (g->n_bias > SL_MAX_LOGIT_BIAS)
        return sl_fail(err, SL_E_INVALID, "logit_bias has %u entries; send at most %d", g->n_bias,
                       SL_MAX_LOGIT_BIAS);
    for (uint32_t i = 0; i < g->n_bias; i++) {
        if (g->bias[i].id >= vocab)
            return sl_fail(err, SL_E_INVALID, "token id %u of logit_bias is outside the vocabulary of %u",
                           g->bias[i].id, vocab);
        if (i > 0 && g->bias[i].id <= g->bias[i - 1].id)
            return sl_fail(err, SL_E_INVALID, "token id %u of logit_bias is there twice, or out of order",
                           g->bias[i].id);
        if (!(fabsf(g->bias[i].value) <= SL_LOGIT_BIAS_LIMIT))
            return sl_fail(err, SL_E_INVALID, "logit_bias of token id %u is %g: give a number from -%g to %g",
                           g->bias[i].id, (double)g->bias[i].value, (double)SL_LOGIT_BIAS_LIMIT,
                           (double)SL_LOGIT_BIAS_LIMIT);
    }
    return SL_OK;
}

static sl_status check_stops(const struct sl_generate *g, struct sl_err *err)
{
    size_t all = 0;
    for (uint32_t i = 0; i < g->n_stop; i++) {
        size_t bytes = strlen(g->stop[i]);
        all += bytes;
        if (bytes == 0)
            return sl_fail(err, SL_E_INVALID, "stop string %u is empty; leave it out", i);
        if (bytes > SL_MAX_STOP_BYTES)
            return sl_fail(err, SL_E_INVALID, "stop string %u has %zu bytes; send at most %d", i, bytes,
                           SL_MAX_STOP_BYTES);
    }
    if (all > SL_MAX_STOPS_BYTES)
        return sl_fail(err, SL_E_INVALID, "the stop strings have %zu bytes together; send at most %d", all,
                       SL_MAX_STOPS_BYTES);
    return SL_OK;
}

static sl_status check_wishes(const struct sl_generate *g, struct sl_err *err)
{
    if (g->deadline_ms == 0)
        return sl_fail(err, SL_E_DEADLINE,
                       "the deadline had passed when the request came; give it more time");
    if (!sl_tenant_is_name(g->tenant, strnlen(g->tenant, sizeof g->tenant)))
        return sl_fail(err, SL_E_INVALID,
                       "the tenant's name is no name; give at most %d printable characters without blanks",
                       SL_MAX_TENANT - 1);
    if (g->priority < SL_PRIORITY_LEAST || g->priority > SL_PRIORITY_MOST)
        return sl_fail(err, SL_E_INVALID, "the priority is %d; give one from %d to %d", g->priority,
                       SL_PRIORITY_LEAST, SL_PRIORITY_MOST);
    if (g->slo_ms > SL_MAX_SLO_MS)
        return sl_fail(err, SL_E_INVALID, "the first token is wanted in %u ms; ask for at most %d", g->slo_ms,
                       SL_MAX_SLO_MS);
    return SL_OK;
}

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
    SL_TRY(check_bias(g, c->shape.vocab, err));
    SL_TRY(check_stops(g, err));
    if (g->n_stop > 0 && sl_tokenizer_vocab(c->tokenizer) == 0)
        return sl_fail(
            err, SL_E_INVALID,
            "this model has no tokenizer.json, so stop strings can't be found: send stop token ids");
    if (g->prompt_logprobs < -1 || g->prompt_logprobs > SL_MAX_LOGPROBS)
        return sl_fail(err, SL_E_INVALID, "prompt_logprobs %d is not served; ask for 0 to %d",
                       g->prompt_logprobs, SL_MAX_LOGPROBS);
    SL_TRY(check_wishes(g, err));
    if (g->min_tokens > g->max_tokens)
        return sl_fail(err, SL_E_INVALID, "min_tokens %u is more than max_tokens %u", g->min_tokens,
                       g->max_tokens);
    if (g->n > 1 && (g->n > SL_MAX_N || g->n > c->plan.max_running || g->max_tokens == 0))
        return sl_fail(err, SL_E_INVALID, "n is %u: ask for 1 to %u answers of at least one token", g->n,
                       c->plan.max_running < SL_MAX_N ? c->plan.max_running : (uint32_t)SL_MAX_N);
    if (g->max_tokens > 1 && c->plan.max_decoders == 0)
        return sl_fail(err, SL_E_UNAVAILABLE, "this pipeline has no decode worker; ask for at most 1 token");
    return sl_sampling_check(&g->sampling, err);
}

sl_status sl_coordinator_submit(struct sl_coordinator *c, const struct sl_generate *generate,
                                sl_generated_fn *fn, void *user, uint64_t *handle, struct sl_err *err)
{
    struct sl_call *call = NULL;
    sl_status status = check_ask(c, generate, err);
    if (status == SL_E_DEADLINE)
        atomic_fetch_add(&c->n_past, 1);
    if (status != SL_OK)
        return status;
    struct sl_post *p = calloc(1, sizeof *p);
    if (!p || sl_call_make(&call, generate, c->tokenizer, c->shape.vocab) != SL_OK) {
        free(p);
        return sl_fail(err, SL_E_EXHAUSTED, "out of memory for the request; try again later");
    }
    call->fn = fn;
    call->user = user;
    *handle = call->handle = atomic_fetch_add(&c->next_handle, 1);
    if (call->ask.id[0] == 0)
        snprintf(call->ask.id, sizeof call->ask.id, "sluice-%llx-%llu",
                 (unsigned long long)c->started_wall_us, (unsigned long long)call->handle);
    p->kind = SL_POST_SUBMIT;
    p->call = call;
    sl_mailbox_post(c, p);
    return SL_OK;
}

/* Without memory for a cancel the request runs to its end: the caller's stream is gone anyway. */
void sl_coordinator_cancel(struct sl_coordinator *c, uint64_t handle)
{
    post_copy(c, &(struct sl_post){.kind = SL_POST_CANCEL, .handle = handle});
}

void sl_coordinator_cancel_id(struct sl_coordinator *c, const char *request_id, const char *owner)
{
    struct sl_post p = {.kind = SL_POST_CANCEL_ID, .owned = owner != NULL};
    snprintf(p.owner, sizeof p.owner, "%s", owner ? owner : "");
    snprintf(p.text, sizeof p.text, "%s", request_id);
    post_copy(c, &p);
}

bool sl_coordinator_has_prefixes(const struct sl_coordinator *c)
{
    return c->config.prefix_cache;
}

bool sl_coordinator_flush_prefixes(struct sl_coordinator *c)
{
    return c->config.prefix_cache && post_copy(c, &(struct sl_post){.kind = SL_POST_FLUSH}) == SL_OK;
}

sl_status sl_coordinator_call(struct sl_coordinator *c, void (*fn)(void *user), void *user)
{
    return post_copy(c, &(struct sl_post){.kind = SL_POST_CALL, .fn = fn, .user = user});
}

void sl_coordinator_mourn(struct sl_coordinator *c, const char *sentence)
{
    struct sl_post p = {.kind = SL_POST_MOURN};
    snprintf(p.text, sizeof p.text, "%s", sentence);
    post_copy(c, &p);
}

void sl_coordinator_set_cost(struct sl_coordinator *c, uint32_t stage, const struct sl_cost *cost)
{
    post_copy(c, &(struct sl_post){.kind = SL_POST_COST, .handle = stage, .cost = *cost});
}

void sl_coordinator_set_silent(struct sl_coordinator *c, uint32_t node, bool silent)
{
    post_copy(c, &(struct sl_post){.kind = silent ? SL_POST_SILENT : SL_POST_HEARD, .handle = node});
}

bool sl_coordinator_silent(struct sl_coordinator *c)
{
    struct sl_load load;
    sl_coordinator_load(c, &load);
    return load.silent || (load.alone && load.life == SL_LIFE_READY);
}

void sl_coordinator_decoder_ready(struct sl_coordinator *c, uint32_t decoder, uint32_t life)
{
    post_copy(c, &(struct sl_post){.kind = SL_POST_DECODER_READY, .handle = decoder, .life = life});
}

void sl_coordinator_decoder_leaves(struct sl_coordinator *c, uint32_t decoder, uint32_t life)
{
    post_copy(c, &(struct sl_post){.kind = SL_POST_DECODER_LEAVES, .handle = decoder, .life = life});
}

void sl_coordinator_decoder_lost(struct sl_coordinator *c, uint32_t decoder, uint32_t life,
                                 const char *sentence)
{
    struct sl_post p = {.kind = SL_POST_DECODER_LOST, .handle = decoder, .life = life};
    snprintf(p.text, sizeof p.text, "%s", sentence);
    post_copy(c, &p);
}

void sl_coordinator_drain(struct sl_coordinator *c)
{
    post_copy(c, &(struct sl_post){.kind = SL_POST_DRAIN});
}

/* ---- state ---- */

bool sl_coordinator_wait_idle(struct sl_coordinator *c, uint32_t timeout_ms)
{
    struct timespec until = sl_clock_in_ms(timeout_ms);
    uint64_t posted =
        atomic_load(&c->n_posted); /* what was asked before this call counts as live until it was looked at */
    pthread_mutex_lock(&c->lock);
    while ((c->n_live > 0 || c->n_taken < posted) &&
           pthread_cond_timedwait(&c->changed, &c->lock, &until) != ETIMEDOUT)
        ;
    bool idle = c->n_live == 0 && c->n_taken >= posted;
    pthread_mutex_unlock(&c->lock);
    return idle;
}

sl_status sl_coordinator_wait_ready(struct sl_coordinator *c, uint32_t timeout_ms, struct sl_err *err)
{
    struct timespec until = sl_clock_in_ms(timeout_ms);
    pthread_mutex_lock(&c->lock);
    while (c->life == SL_LIFE_FORMING && pthread_cond_timedwait(&c->changed, &c->lock, &until) != ETIMEDOUT)
        ;
    sl_status status = SL_OK;
    if (c->life == SL_LIFE_LOST)
        status = sl_fail(err, SL_E_UNAVAILABLE, "%s", c->lost_sentence);
    else if (c->life == SL_LIFE_FORMING)
        status =
            sl_fail(err, SL_E_UNAVAILABLE,
                    "the pipeline was not complete after %u s; look at the stages' logs", timeout_ms / 1000);
    else if (c->life != SL_LIFE_READY)
        status = sl_fail(err, SL_E_UNAVAILABLE, "the pipeline was told to stop before it was complete");
    pthread_mutex_unlock(&c->lock);
    return status;
}

enum sl_life sl_coordinator_life(struct sl_coordinator *c)
{
    pthread_mutex_lock(&c->lock);
    enum sl_life life = c->life;
    pthread_mutex_unlock(&c->lock);
    return life;
}

sl_status sl_coordinator_lost_sentence(struct sl_coordinator *c, char *sentence, size_t bytes)
{
    pthread_mutex_lock(&c->lock);
    snprintf(sentence, bytes, "%s", c->lost_sentence);
    sl_status status = c->lost_status == SL_OK ? SL_E_PEER_LOST : c->lost_status;
    pthread_mutex_unlock(&c->lock);
    return status;
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
sl_status sl_coordinator_read_file(const struct sl_coordinator *c, const char *name, char **text,
                                   size_t *bytes, struct sl_err *err)
{
    return c->config.read_file(c->config.pack, name, text, bytes, err);
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
