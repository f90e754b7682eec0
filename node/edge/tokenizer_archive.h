/* GetTokenizer: the files that a gateway needs to encode and decode for a model, as one zip whose bytes never change, with its
 * SHA-256 in the last chunk. For the engine, and for whoever pretends to be one (bench/serve/selftest). */
#ifndef SL_NODE_EDGE_TOKENIZER_ARCHIVE_H
#define SL_NODE_EDGE_TOKENIZER_ARCHIVE_H

#include "node/rpc/rpc.h"

/* A file by name: *text is malloc'ed. SL_E_NOT_FOUND: there is none, which is fine. Any thread. */
typedef sl_status (*sl_archive_read_fn)(void *context, const char *name, char **text, size_t *bytes,
                                        struct sl_err *err);

struct sl_archive;
struct sl_archive *sl_archive_create(sl_archive_read_fn read, void *context); /* NULL: no memory */
void sl_archive_destroy(struct sl_archive *archive);                          /* after the server's stop */
/* The handler of the method; context: the sl_archive, which is made when it is first asked for. */
void sl_archive_on_call(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context);

#endif
