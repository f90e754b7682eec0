/* The part of OpenAI's HTTP interface that the scripted server speaks, as bytes: a request's body is read, answers are written.
 * Pure, but for memory. */
#ifndef SL_BENCH_SERVE_SELFTEST_OPENAI_H
#define SL_BENCH_SERVE_SELFTEST_OPENAI_H

#include "base/status.h"
#include "base/text.h"
#include <stdint.h>

struct sl_openai_ask {
    bool chat, stream, include_usage;
    uint32_t max_tokens; /* 0: it did not say */
    uint32_t n_ids;      /* of a prompt of ids */
    char *text;          /* else: the prompt, or all contents of the messages; malloc'ed */
    size_t text_bytes;
};
/* The body of /v1/completions or, with chat, /v1/chat/completions. SL_E_INVALID names the field. Frees nothing on failure: call
 * fini in any case (zero before use). Fields of which nothing is known, or that change nothing here, are ignored. */
sl_status sl_openai_ask_read(struct sl_openai_ask *ask, bool chat, const char *body, size_t bytes,
                             struct sl_err *err);
void sl_openai_fini(struct sl_openai_ask *ask);

struct sl_openai_frame {    /* of one answer: what all its messages have in common */
    const char *model, *id; /* printable ASCII */
    bool chat, stream;
};
/* A message of a stream with text, "data: {...}\n\n"; finish: "length", or NULL. */
void sl_openai_chunk(struct sl_text *to, const struct sl_openai_frame *frame, const char *text,
                     const char *finish);
/* The last of a stream with stream_options.include_usage. */
void sl_openai_usage(struct sl_text *to, const struct sl_openai_frame *frame, uint32_t prompt_tokens,
                     uint32_t output_tokens);
/* The whole of an answer that is no stream. */
void sl_openai_whole(struct sl_text *to, const struct sl_openai_frame *frame, const char *text,
                     const char *finish, uint32_t prompt_tokens, uint32_t output_tokens);
void sl_openai_error(struct sl_text *to, unsigned status, const char *sentence);
void sl_openai_models(struct sl_text *to, const char *model);

#endif
