/* What `generate` and `score` print: text as it comes, ids as they come, or one JSON object at the
 * end. */
#ifndef SL_NODE_CLIENT_OUTPUT_H
#define SL_NODE_CLIENT_OUTPUT_H

#include "node/client/client.h"
#include "node/client/prompt.h"
#include <stdio.h>

struct sl_output {
    const struct sl_tokenizer *tokenizer;
    bool json, ids, score;
    bool digest; /* JSON has the digests: two runs that must give the same bits are compared by them */
    struct sl_detok detok;
    char *piece; /* room for what one token completes */
};

/* form: "text", "ids" or "json". */
void sl_output_begin(struct sl_output *output, const char *form, const struct sl_tokenizer *tokenizer,
                     bool score);
/* An sl_answer_fn. */
void sl_output_tokens(void *output, const struct sl_token_out *tokens, uint32_t n);
void sl_output_end(struct sl_output *output, const struct sl_answer *answer, const struct sl_prompt *prompt,
                   bool top);
void sl_output_fini(struct sl_output *output);

/* A JSON string with its quotes; bytes that are not UTF-8 must not be in it. */
void sl_json_string(FILE *to, const char *text, size_t bytes);

#endif
