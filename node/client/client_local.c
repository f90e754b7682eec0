/* A request to the roles in this process. The coordinator calls back on its own thread and must not
 * be kept waiting, so a piece is copied into the answer under a lock and the caller's thread hands
 * it on from there. */
#include "base/clock.h"
#include "model/pack/pack_cache.h"
#include "model/shape.h"
#include "node/client/client_impl.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sl_local {
    struct sl_cluster_config config;
    struct sl_pack *pack;
    struct sl_cluster *cluster;

    pthread_mutex_t lock; /* between the caller, the coordinator's thread and whoever cancels: all below */
    pthread_cond_t changed;
    bool running, done, no_memory;
    uint64_t handle;
    struct sl_answer *answer;
    struct sl_err err;
    sl_status status;
};

sl_status sl_local_open(struct sl_local **out, const struct sl_cluster_config *config,
                        struct sl_tokenizer **tokenizer, struct sl_err *err)
{
    struct sl_local *local = calloc(1, sizeof *local);
    if (!local)
        return sl_fail(err, SL_E_NOMEM, "no memory for a client");
    pthread_mutex_init(&local->lock, NULL);
    sl_clock_cond_init(&local->changed);
    local->config = *config;
    sl_status status = sl_pack_open_any(&local->pack, config->model, err);
    if (status == SL_OK)
        status = sl_pack_tokenizer(local->pack, tokenizer, err);
    if (status != SL_OK) {
        sl_local_close(local);
        return status;
    }
    *out = local;
    return SL_OK;
}

sl_status sl_local_start(struct sl_local *local, uint32_t context_tokens, struct sl_err *err)
{
    uint32_t max_pos = sl_pack_shape(local->pack)->max_pos;
    local->config.model = sl_pack_path(local->pack);
    /* A request longer than the model's context is refused by submit, with its own sentence. */
    local->config.context_tokens = context_tokens < max_pos ? context_tokens : max_pos;
    return sl_cluster_start(&local->cluster, &local->config, err);
}

/* On the coordinator's thread, lock held. */
static sl_status copy_piece(struct sl_local *local, const struct sl_generated *piece)
{
    struct sl_answer *answer = local->answer;
    if (piece->n_tokens > 0) {
        struct sl_token_out *added = sl_answer_add(answer, piece->n_tokens);
        if (!added)
            return SL_E_NOMEM;
        memcpy(added, piece->tokens, piece->n_tokens * sizeof *added);
    }
    if (piece->n_prompt > 0 && !answer->prompt) {
        answer->prompt = malloc(piece->n_prompt * sizeof *answer->prompt);
        if (!answer->prompt)
            return SL_E_NOMEM;
        memcpy(answer->prompt, piece->prompt, piece->n_prompt * sizeof *answer->prompt);
        answer->n_prompt = piece->n_prompt;
    }
    answer->prompt_tokens = piece->prompt_tokens;
    answer->cached_tokens = piece->cached_tokens;
    if (!piece->done)
        return SL_OK;
    answer->finish = piece->finish;
    answer->logits_digest = piece->logits_digest;
    answer->kv_digest = piece->kv_digest;
    return piece->timeline ? sl_answer_set_timeline(answer, piece->timeline) : SL_OK;
}

static void on_piece(void *user, const struct sl_generated *piece)
{
    struct sl_local *local = user;
    pthread_mutex_lock(&local->lock);
    if (copy_piece(local, piece) != SL_OK)
        local->no_memory = true;
    if (piece->done) {
        local->status = piece->status;
        if (piece->status != SL_OK)
            sl_fail(&local->err, piece->status, "%s",
                    piece->error ? piece->error : sl_status_name(piece->status));
        local->done = true;
    }
    pthread_cond_signal(&local->changed);
    pthread_mutex_unlock(&local->lock);
}

/* Hands tokens on until the end; the lock is given up while fn runs. */
static void follow(struct sl_local *local, sl_answer_fn *fn, void *user)
{
    uint32_t seen = 0;
    pthread_mutex_lock(&local->lock);
    while (!local->done || seen < local->answer->n_tokens) {
        if (seen == local->answer->n_tokens) {
            pthread_cond_wait(&local->changed, &local->lock);
            continue;
        }
        struct sl_token_out token = local->answer->tokens[seen++];
        pthread_mutex_unlock(&local->lock);
        if (fn)
            fn(user, &token, 1);
        pthread_mutex_lock(&local->lock);
    }
    local->running = false;
    pthread_mutex_unlock(&local->lock);
}

sl_status sl_local_generate(struct sl_local *local, const struct sl_generate *generate, sl_answer_fn *fn,
                            void *user, struct sl_answer *answer, struct sl_err *err)
{
    pthread_mutex_lock(&local->lock);
    local->answer = answer;
    local->done = local->no_memory = false;
    local->status = SL_OK;
    pthread_mutex_unlock(&local->lock);
    uint64_t handle;
    SL_TRY(sl_coordinator_submit(sl_cluster_coordinator(local->cluster), generate, on_piece, local, &handle,
                                 err));
    pthread_mutex_lock(&local->lock);
    local->handle = handle;
    local->running = true;
    pthread_mutex_unlock(&local->lock);
    follow(local, fn, user);
    if (local->no_memory)
        return sl_fail(err, SL_E_NOMEM, "no memory for the answer; ask for fewer tokens");
    if (local->status != SL_OK)
        return sl_fail(err, local->status, "%s", local->err.text);
    return SL_OK;
}

bool sl_local_cancel(struct sl_local *local)
{
    pthread_mutex_lock(&local->lock);
    bool running = local->running;
    uint64_t handle = local->handle;
    pthread_mutex_unlock(&local->lock);
    if (running)
        sl_coordinator_cancel(sl_cluster_coordinator(local->cluster), handle);
    return running;
}

void sl_local_close(struct sl_local *local)
{
    if (!local)
        return;
    if (local->cluster)
        sl_cluster_stop(local->cluster);
    pthread_cond_destroy(&local->changed);
    pthread_mutex_destroy(&local->lock);
    sl_pack_close(local->pack);
    free(local);
}
