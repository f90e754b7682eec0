/* Private to the room: the two ways (client_local.c, client_remote.c), each behind the same four functions,
 * and what they fill an answer with (answer.c). */
#ifndef SL_NODE_CLIENT_CLIENT_IMPL_H
#define SL_NODE_CLIENT_CLIENT_IMPL_H

#include "node/client/client.h"

struct sl_local;  /* a cluster in this process */
struct sl_remote; /* a channel to an endpoint */

sl_status sl_local_open(struct sl_local **local, const struct sl_cluster_config *config,
                        struct sl_tokenizer **tokenizer, struct sl_err *err);
sl_status sl_local_start(struct sl_local *local, uint32_t context_tokens, struct sl_err *err);
sl_status sl_local_generate(struct sl_local *local, const struct sl_generate *generate, sl_answer_fn *fn,
                            void *user, struct sl_answer *answer, struct sl_err *err);
bool sl_local_cancel(struct sl_local *local);
void sl_local_close(struct sl_local *local);

sl_status sl_remote_open(struct sl_remote **remote, const char *endpoint, struct sl_tokenizer **tokenizer,
                         struct sl_err *err);
sl_status sl_remote_generate(struct sl_remote *remote, const struct sl_generate *generate, sl_answer_fn *fn,
                             void *user, struct sl_answer *answer, struct sl_err *err);
bool sl_remote_cancel(struct sl_remote *remote);
void sl_remote_close(struct sl_remote *remote);

/* Appends zeroed tokens and returns the first of them; NULL: no memory. */
struct sl_token_out *sl_answer_add(struct sl_answer *answer, uint32_t n);
/* Copies a timeline, spans and all. */
sl_status sl_answer_set_timeline(struct sl_answer *answer, const struct sl_timeline *timeline);
/* The bytes of a file in a zip archive whose files are stored, not compressed; NULL: not there, or
 * not such an archive. */
const uint8_t *sl_zip_find(const uint8_t *zip, size_t zip_bytes, const char *name, size_t *bytes);

#endif
