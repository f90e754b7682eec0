/* `sluice bench scripted`: a server that behaves as a script says and writes down what a perfect observer would have seen. It speaks
 * gRPC (VllmEngine) and OpenAI's HTTP; one play is behind both, so that number, queue and faults are those of all requests. */
#ifndef SL_BENCH_SERVE_SELFTEST_SCRIPTED_H
#define SL_BENCH_SERVE_SELFTEST_SCRIPTED_H

#include "bench/serve/selftest/play.h"
#include "bench/serve/selftest/words.h"
#include "model/pack/pack.h"

enum { SL_SCRIPTED_MESSAGE_BYTES = 8 << 20, SL_SCRIPTED_ID_BYTES = 128 };

struct sl_scripted { /* what both sides see; outlives them */
    const struct sl_script *script;
    struct sl_play *play;
    const struct sl_words *words;
    const struct sl_pack *pack; /* NULL: no model */
    const char *model;          /* its name */
    uint32_t default_tokens;    /* of who does not say */
};

/* Of a request and of its turn, which is malloc'ed. NULL: no memory. */
struct sl_turn *sl_scripted_turn(const char *id, uint32_t prompt_tokens, uint32_t max_tokens);
/* The counts that an answer with n tokens says; a liar's are wrong. */
void sl_scripted_usage(const struct sl_turn *turn, uint32_t n, uint32_t *prompt_tokens,
                       uint32_t *output_tokens);

struct sl_scripted_grpc;
sl_status sl_scripted_grpc_start(struct sl_scripted_grpc **grpc, struct sl_scripted *scripted,
                                 const char *listen, struct sl_err *err);
int sl_scripted_grpc_port(const struct sl_scripted_grpc *grpc);
void sl_scripted_grpc_stop(struct sl_scripted_grpc *grpc); /* the play is closed; NULL is fine */

struct sl_scripted_http;
sl_status sl_scripted_http_start(struct sl_scripted_http **http, struct sl_scripted *scripted,
                                 const char *listen, struct sl_err *err);
int sl_scripted_http_port(const struct sl_scripted_http *http);
void sl_scripted_http_quiesce(
    struct sl_scripted_http *http); /* takes nobody any more; before the play is closed */
void sl_scripted_http_stop(struct sl_scripted_http *http); /* the play is closed; NULL is fine */

#endif
