/* Where a pack is built before it takes its place: DST.tmp-PID, beside DST, with a lock on it as long as its packer lives. So what
 * a killed packer has left is told from what a living one is building, whatever process has its number now, and in containers that
 * share a directory but no process numbers. Private to the room. */
#ifndef SL_MODEL_PACK_PACK_PLACE_H
#define SL_MODEL_PACK_PACK_PLACE_H

#include "base/status.h"
#include <stdint.h>

/* Makes the directory and locks it; the lock goes with *lock, which the caller closes. */
sl_status sl_place_make(const char *tmp, int *lock, struct sl_err *err);
/* Removes what dead packers have left in `parent` of pack `base`; NULL: of any. Returns how many. What holds files that no
 * packer writes stays. */
uint32_t sl_place_sweep(const char *parent, const char *base);
/* A pack is flat: what lies in it, then the directory. */
void sl_place_remove(const char *path);

#endif
