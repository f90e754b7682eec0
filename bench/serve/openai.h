/* OpenAI's HTTP as JSON texts: bodies of requests, and what a piece of an answer says. No socket. */
#ifndef SL_BENCH_SERVE_OPENAI_H
#define SL_BENCH_SERVE_OPENAI_H

#include "bench/serve/target.h"

/* malloc'ed; NULL: no memory. extra: a JSON object whose members are added, or replace; NULL: none. */
char *sl_openai_body(const struct sl_call_ask *ask, const char *model, bool chat, const char *extra);

struct sl_openai_piece {
    bool failed; /* text is the sentence */
    bool finished, has_usage;
    const char
        *text; /* NULL or not empty: what came of the answer, of reasoning too; valid until sl_openai_free */
    uint32_t input_tokens, output_tokens;
    void *root;
};
/* Of one event, or of a whole answer that is no stream. SL_E_PROTOCOL: it is no JSON object. */
sl_status sl_openai_read(struct sl_openai_piece *piece, const char *data, size_t bytes);
void sl_openai_free(struct sl_openai_piece *piece);
/* The first model that /v1/models lists; false: none. */
bool sl_openai_model(const char *data, size_t bytes, char *name, size_t room);

#endif
