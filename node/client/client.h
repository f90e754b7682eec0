/* The client's side of a request, whichever way it travels: to an endpoint over gRPC, or to the
 * same roles as threads of this process. `sluice generate`, `sluice score` and the benches are
 * written against this and do not know which it is.
 *
 * Order of use: open (the tokenizer is there) -> start (the longest request is known: pools are
 * planned) -> generate, any number of times, one at a time -> close. Only sl_client_cancel may be
 * called from another thread. */
#ifndef SL_NODE_CLIENT_CLIENT_H
#define SL_NODE_CLIENT_CLIENT_H

#include "node/local/cluster.h"

struct sl_client_config {
    const char *endpoint;             /* "127.0.0.1:50051"; NULL: in this process, as `cluster` says */
    struct sl_cluster_config cluster; /* context_tokens is given to sl_client_start instead */
};

struct sl_answer {                         /* everything that came back; sl_answer_free */
    uint32_t prompt_tokens, cached_tokens; /* of the prompt, those that were there already */
    struct sl_token_out *prompt;           /* when prompt_logprobs were asked for; [0] is unused */
    uint32_t n_prompt;
    struct sl_token_out *tokens;
    uint32_t n_tokens, room;
    enum sl_finish finish;
    uint64_t logits_digest, kv_digest; /* when asked, in this process */
    bool has_timeline;
    struct sl_timeline timeline; /* spans and foreign are malloc'ed */
};
void sl_answer_free(struct sl_answer *answer);
/* {"timeline": {...}} as the endpoint sends it; SL_E_PROTOCOL when it is not that. */
sl_status sl_answer_parse_timeline(struct sl_answer *answer, const char *json, struct sl_err *err);

/* New tokens as they arrive, on the thread that called sl_client_generate. */
typedef void sl_answer_fn(void *user, const struct sl_token_out *tokens, uint32_t n);

struct sl_client;
sl_status sl_client_open(struct sl_client **client, const struct sl_client_config *config,
                         struct sl_err *err);
const struct sl_tokenizer *sl_client_tokenizer(const struct sl_client *client);
/* context_tokens: prompt + output of the longest request to come. Does nothing over an endpoint. */
sl_status sl_client_start(struct sl_client *client, uint32_t context_tokens, struct sl_err *err);
/* Blocks until the end. A request that failed is the status and sentence that its server gave. fn
 * may be NULL. */
sl_status sl_client_generate(struct sl_client *client, const struct sl_generate *generate, sl_answer_fn *fn,
                             void *user, struct sl_answer *answer, struct sl_err *err);
/* Ends the running request with SL_FINISH_ABORT or SL_E_CANCELLED; false when none was running. Any
 * thread. */
bool sl_client_cancel(struct sl_client *client);
void sl_client_close(struct sl_client *client); /* NULL is fine */

#endif
