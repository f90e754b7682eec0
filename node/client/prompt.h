/* The prompt of a command: from the command line, a file, or a file of token ids; always ids in the
 * end. */
#ifndef SL_NODE_CLIENT_PROMPT_H
#define SL_NODE_CLIENT_PROMPT_H

#include "model/tokenizer/tokenizer.h"

struct sl_prompt {
    uint32_t *ids; /* malloc'ed */
    uint32_t n_ids;
};

/* Exactly one of text, file, ids_file is not NULL; "-" as a file is standard input. SL_E_IO: a file
 * that cannot be read; SL_E_DATA: what is in it. At most 64 MiB. */
sl_status sl_prompt_read(struct sl_prompt *prompt, const char *text, const char *file, const char *ids_file,
                         const struct sl_tokenizer *tokenizer, struct sl_err *err);
/* A JSON list of whole numbers, or numbers with blanks or commas between them. name: for the
 * sentence. */
sl_status sl_prompt_parse_ids(struct sl_prompt *prompt, const char *text, size_t bytes, const char *name,
                              struct sl_err *err);
void sl_prompt_free(struct sl_prompt *prompt);

#endif
