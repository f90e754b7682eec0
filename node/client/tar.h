/* A tar archive (ustar, readable by its owner alone) written from memory, file by file: for `sluice report`. */
#ifndef SL_NODE_CLIENT_TAR_H
#define SL_NODE_CLIENT_TAR_H

#include "base/status.h"
#include <stdint.h>
#include <stdio.h>

struct sl_tar {
    FILE *file;
    const char *path;
    uint64_t at_s; /* the time of what is in it, in seconds since 1970 */
};

/* Makes the file; one that is there is not touched (SL_E_EXISTS). path must live as long. */
sl_status sl_tar_begin(struct sl_tar *tar, const char *path, uint64_t at_s, struct sl_err *err);
/* name: relative, at most 99 bytes. */
sl_status sl_tar_add(struct sl_tar *tar, const char *name, const char *data, size_t bytes,
                     struct sl_err *err);
/* Ends and closes it. What was not whole is removed; so it is by sl_tar_drop. */
sl_status sl_tar_end(struct sl_tar *tar, struct sl_err *err);
void sl_tar_drop(struct sl_tar *tar);

#endif
