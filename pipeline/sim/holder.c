/* What the holders of requests write down, and find broken (holder.h). */
#include "pipeline/sim/holder.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

sl_status sl_holders_init(struct sl_holders *h, struct sl_sim_request *requests, uint32_t n, uint32_t vocab)
{
    *h =
        (struct sl_holders){.requests = requests, .n = n, .vocab = vocab, .asks = calloc(n, sizeof *h->asks)};
    return h->asks ? SL_OK : SL_E_NOMEM;
}

void sl_holders_fini(struct sl_holders *h)
{
    for (uint32_t i = 0; h->asks && i < h->n; i++)
        for (uint32_t k = 0; k < SL_MAX_N; k++)
            free((uint8_t *)(uintptr_t)h->asks[i].said[k].counts);
    free(h->asks);
}

struct sl_ask *sl_holders_ask(struct sl_holders *h, uint32_t i)
{
    struct sl_ask *ask = &h->asks[i];
    struct sl_sim_request *r = &h->requests[i];
    *ask = (struct sl_ask){.ids = r->ids,
                           .n_ids = r->n_ids,
                           .sampling = {.temperature = r->temperature,
                                        .top_p = 1,
                                        .n_logprobs = -1,
                                        .repetition_penalty = r->repetition_penalty,
                                        .presence_penalty = r->presence_penalty,
                                        .seed = r->seed},
                           .n = r->n,
                           .max_tokens = r->max_tokens,
                           .min_tokens = r->min_tokens,
                           .ignore_eos = r->ignore_eos,
                           .steering_bytes = r->steering_bytes,
                           .steering = r->steering,
                           .prompt_logprobs = -1,
                           .deadline_us = r->deadline_us,
                           .target_us = r->target_us,
                           .priority = r->priority,
                           .cache_salt = {r->salt},
                           .user = r};
    snprintf(ask->tenant, sizeof ask->tenant, "%s", r->tenant ? r->tenant : "");
    for (uint32_t k = 0; k < SL_MAX_N; k++)
        ask->said[k].ids = r->answers[k].tokens;
    return ask;
}

static int by_id(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static const char *on_token(struct sl_holders *h, struct sl_sim_request *r, const struct sl_action *a,
                            uint64_t now_us)
{
    struct sl_sim_answer *answer = &r->answers[a->index];
    if (answer->ended || a->token.n_out != answer->n_tokens + 1 || a->token.n_out > r->max_tokens)
        return "a token was told after the end, twice, or beyond the length";
    if (answer->n_tokens == 0)
        answer->first_us = now_us;
    answer->tokens[answer->n_tokens++] = a->token.out->id;
    h->tokens++;
    return NULL;
}

static bool begins_with(const struct sl_sim_request *q, const struct sl_sim_answer *answer,
                        const uint32_t *ids, uint32_t n)
{
    uint32_t of_prompt = n < q->n_ids ? n : q->n_ids;
    return n <= q->n_ids + answer->n_tokens && memcmp(q->ids, ids, of_prompt * sizeof *ids) == 0 &&
           memcmp(answer->tokens, ids + of_prompt, (n - of_prompt) * sizeof *ids) == 0;
}

/* Somebody else with that salt has had what is cached of its prompt, asked or answered. */
static bool may_be_cached(const struct sl_holders *h, const struct sl_sim_request *r, uint32_t n_cached)
{
    bool may = n_cached == 0;
    for (uint32_t i = 0; i < h->n && !may; i++)
        for (uint32_t k = 0; k < SL_MAX_N && h->requests[i].salt == r->salt && &h->requests[i] != r; k++)
            may = may || begins_with(&h->requests[i], &h->requests[i].answers[k], r->ids, n_cached);
    return may;
}

static const char *on_end(struct sl_holders *h, struct sl_sim_request *r, const struct sl_action *a,
                          uint64_t now_us)
{
    struct sl_sim_answer *answer = &r->answers[a->index];
    bool all = true, twice = answer->ended || r->ended;
    answer->ended = true;
    answer->status = a->end.status;
    answer->finish = a->end.finish;
    answer->end_us = now_us;
    for (uint32_t i = 0; i < (r->n ? r->n : 1); i++)
        all = all && r->answers[i].ended;
    r->ended = a->end.last;
    h->n_ended += a->end.last;
    if (twice)
        return "an end was told twice";
    if (!may_be_cached(h, r, a->end.cached_tokens))
        return "more of a prompt is cached than anybody has had under its salt";
    bool refused = answer->n_tokens == 0 && a->index == 0 && a->end.last &&
                   (a->end.status == SL_E_EXHAUSTED || a->end.status == SL_E_UNAVAILABLE);
    return a->end.last != all && !refused ? "the last end was not said, or another was" : NULL;
}

/* Who is set back is younger than somebody who goes on, and has pages for nothing while it waits. */
static const char *on_set_back(struct sl_holders *h, struct sl_sim_request *r, const struct sl_action *a)
{
    struct sl_sim_answer *answer = &r->answers[a->index];
    struct sl_said *said = &h->asks[r - h->requests].said[a->index];
    uint32_t *sorted = malloc((answer->n_tokens + 1) * sizeof *sorted);
    uint8_t *counts =
        realloc((uint8_t *)(uintptr_t)said->counts, sl_counts_max_bytes(answer->n_tokens, h->vocab));
    assert(sorted && counts);
    memcpy(sorted, answer->tokens, answer->n_tokens * sizeof *sorted);
    qsort(sorted, answer->n_tokens, sizeof *sorted, by_id);
    said->counts = counts;
    said->counts_bytes = (uint32_t)sl_counts_pack(counts, sorted, answer->n_tokens, h->vocab);
    free(sorted);
    answer->n_set_back++;
    h->set_back++;
    return answer->ended || answer->n_tokens == 0 ? "what has ended, or never began, was set back" : NULL;
}

static const char *hear(struct sl_holders *h, const struct sl_action *a, uint64_t now_us)
{
    struct sl_sim_request *r = a->user;
    if (a->kind == SL_ACTION_END)
        return on_end(h, r, a, now_us);
    if (a->kind == SL_ACTION_SET_BACK)
        return on_set_back(h, r, a);
    return a->token.out ? on_token(h, r, a, now_us) : NULL;
}

static bool is_theirs(const struct sl_action *a)
{
    return a->kind == SL_ACTION_TOKEN || a->kind == SL_ACTION_END || a->kind == SL_ACTION_SET_BACK;
}

static bool ends_text(const struct sl_action *a)
{
    const struct sl_sim_request *r = a->user;
    return a->kind == SL_ACTION_TOKEN && a->token.out && r->text_ends_at &&
           a->token.n_out == r->text_ends_at + a->index;
}

const char *sl_holders_carry_out(struct sl_holders *h, struct sl_core *core, struct sl_actions *actions,
                                 uint64_t now_us, sl_holders_act *act, void *world)
{
    struct {
        uint64_t seq;
        uint32_t n;
    } over[SL_MAX_BATCH];
    uint32_t n_over = 0;
    const char *bad = NULL, *heard;
    for (uint32_t i = 0; i < actions->n; i++) {
        const struct sl_action *a = &actions->list[i];
        if (!is_theirs(a)) {
            act(world, a);
            continue;
        }
        heard = hear(h, a, now_us);
        bad = bad ? bad : heard;
        if (ends_text(a)) {
            over[n_over].seq = a->seq;
            over[n_over++].n = a->token.n_out;
        }
    }
    actions->n = 0;
    for (uint32_t i = 0; i < n_over; i++) {
        sl_core_text_ends(core, over[i].seq, over[i].n, actions);
        heard = sl_holders_carry_out(h, core, actions, now_us, act, world);
        bad = bad ? bad : heard;
    }
    return bad;
}
