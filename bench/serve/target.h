/* Whom a load goes to. One thread, any number of calls at once: send() never waits, poll() waits for what comes and for the clock,
 * whichever is first, and calls back from within; a callback may cancel, not send. Two kinds, each a pair of files: gRPC (target_grpc.c) and OpenAI's HTTP
 * (target_openai.c). */
#ifndef SL_BENCH_SERVE_TARGET_H
#define SL_BENCH_SERVE_TARGET_H

#include "base/status.h"
#include "bench/serve/outcome.h"
#include "pipeline/record/span.h"

struct sl_headers { /* metadata of a call: names lower case */
    uint32_t n;
    char *const *names, *const *values;
};

struct sl_call_ask { /* valid until send() returns */
    const char *request_id;
    const uint32_t *ids; /* the prompt as ids, or NULL and */
    uint32_t n_ids;
    const char *text;     /* as text, UTF-8 */
    const char *messages; /* chat: a JSON list; NULL: text is the one message of the user */
    uint32_t max_tokens;
    bool force_length; /* exactly max_tokens: ignore_eos and min_tokens */
    double temperature;
    uint32_t seed;
    uint32_t deadline_ms; /* tells the server; 0: none */
    const struct sl_headers *headers;
};

struct sl_call_end {
    enum sl_ending ending;                /* DONE or FAILED */
    const char *sentence;                 /* why it failed */
    uint32_t input_tokens, output_tokens; /* as the server counts; 0: it did not say */
    const struct sl_timeline *timeline;   /* ours only; NULL: none */
};

struct sl_target_config {
    const char *endpoint;   /* "127.0.0.1:50051", or "http://127.0.0.1:8000/v1" */
    const char *model;      /* OpenAI: NULL: the first that it lists */
    bool chat;              /* OpenAI: /chat/completions instead of /completions */
    const char *extra_body; /* OpenAI: a JSON object whose members every request has; NULL: none */
    bool want_timeline;     /* gRPC: if the server is ours */
    bool keep_answers;      /* conversations: on_tokens brings ids or text */
    const char *tls_ca, *tls_cert, *tls_key, *token; /* PEM texts, a bearer token; NULL: none */
    const char *tls_name; /* gRPC: that the server's certificate must have; NULL: the endpoint's */
    bool tls;             /* gRPC; HTTP says it with https:// */
    uint32_t max_calls;
    void *user;
    /* n tokens (OpenAI: 1 a chunk with text) arrived at at_ns of the monotonic clock; ids or text as kept, else NULL. */
    void (*on_tokens)(void *user, uint32_t call, uint64_t at_ns, uint32_t n, const uint32_t *ids,
                      const char *text);
    /* Exactly once per call that was sent and not given up. */
    void (*on_end)(void *user, uint32_t call, uint64_t at_ns, const struct sl_call_end *end);
};

struct sl_target;
sl_status sl_target_open_grpc(struct sl_target **target, const struct sl_target_config *config,
                              struct sl_err *err);
sl_status sl_target_open_openai(struct sl_target **target, const struct sl_target_config *config,
                                struct sl_err *err);
/* Waits until the server says it is ready and what its model is; SL_E_UNAVAILABLE after timeout_ms. */
sl_status sl_target_ready(struct sl_target *target, uint32_t timeout_ms, struct sl_err *err);
const char *sl_target_model(const struct sl_target *target);
uint32_t sl_target_vocabulary(const struct sl_target *target); /* 0: not known */
uint32_t sl_target_context(const struct sl_target *target);    /* 0: not known */
bool sl_target_is_ours(const struct sl_target *target);
/* call: the caller's number, < max_calls, free. A call that cannot even be begun ends by on_end from within. */
void sl_target_send(struct sl_target *target, uint32_t call, const struct sl_call_ask *ask);
/* The call is over at once: its number is free, nothing is called back for it any more. */
void sl_target_cancel(struct sl_target *target, uint32_t call);
/* Serves what comes until until_ns of the monotonic clock, or until something came, to a tenth of a ms. */
void sl_target_poll(struct sl_target *target, uint64_t until_ns);
void sl_target_close(struct sl_target *target);

#endif
