/* The directory of packs made on first use: which pack belongs to which checkpoint, what is there, and what may go.
 *
 *   BASE-PLACE-KEY.pack        PLACE: of the checkpoint's path; KEY: of what is packed of it (names, sizes and times of its
 *                              configuration, tokenizer and weights; a README changes nothing)
 *   BASE-PLACE-KEY.pack.from   the checkpoint's path */
#ifndef SL_MODEL_PACK_CACHE_STORE_H
#define SL_MODEL_PACK_CACHE_STORE_H

#include "base/status.h"
#include <stdint.h>

/* $XDG_CACHE_HOME/sluice or ~/.cache/sluice, made when it is missing. */
sl_status sl_cache_dir(char *out, size_t room, struct sl_err *err);
/* Where the pack of the checkpoint `real` (absolute) lies, or would. */
sl_status sl_cache_place(const char *real, char *path, size_t room, struct sl_err *err);
/* It has been made: its checkpoint is noted, and packs of an earlier state of it go. */
void sl_cache_made(const char *path, const char *real);

struct sl_cached {
    const char *path, *from; /* from: the checkpoint, "" when it is not known */
    uint64_t bytes;
    bool whole; /* else what a packer is building, or has left */
};
/* In no order. fn may remove what it is shown. */
sl_status sl_cache_each(void (*fn)(void *user, const struct sl_cached *cached), void *user,
                        struct sl_err *err);
/* Every pack, what dead packers have left, and what chunks cost on this machine. Who serves one of them goes on with the files that it has open. */
sl_status sl_cache_clear(uint32_t *n_packs, uint64_t *bytes, struct sl_err *err);

#endif
