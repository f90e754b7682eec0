/* Packs made on first use and kept, and what goes with a pack: its tokenizer, and the tuning of this machine's kernels for
 * its weights. */
#ifndef SL_MODEL_PACK_PACK_CACHE_H
#define SL_MODEL_PACK_PACK_CACHE_H

#include "model/pack/pack.h"
#include "model/tokenizer/tokenizer.h"

/* PATH -> the directory of a pack: PATH itself when it is one, else the cached pack of that checkpoint, made when it is
 * missing or older (in $XDG_CACHE_HOME/sluice or ~/.cache/sluice). *pack_path is malloc'ed. */
sl_status sl_pack_ensure(const char *path, char **pack_path, struct sl_err *err);

/* The same, opened. */
sl_status sl_pack_open_any(struct sl_pack **pack, const char *path, struct sl_err *err);

/* Before the first stage over a pack with integer weights: the choice of kernels/tune.h for this processor, from the cache
 * directory, or measured now (at most a second) and kept there. A failure is logged and leaves the defaults. Once a
 * process; the main thread. */
void sl_tune_for(const struct sl_pack *pack, enum sl_profile profile);

/* The tokenizer of a pack, from the bytes that were verified; of one without tokenizer.json, sl_tokenizer_none. */
sl_status sl_pack_tokenizer(const struct sl_pack *pack, struct sl_tokenizer **tokenizer, struct sl_err *err);

#endif
