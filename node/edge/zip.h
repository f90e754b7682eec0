/* Zip files, written only: stored entries, the same bytes for the same contents. For GetTokenizer.
 */
#ifndef SL_NODE_EDGE_ZIP_H
#define SL_NODE_EDGE_ZIP_H

#include "base/status.h"
#include <stdint.h>

enum { SL_ZIP_MAX_ENTRIES = 16 };

struct sl_zip { /* zero before use; data is the archive once ended, free()d by sl_zip_fini */
    uint8_t *data;
    size_t bytes, room;
    uint32_t n_entries;
    struct {
        uint32_t offset, bytes, crc;
        char name[64];
    } entries[SL_ZIP_MAX_ENTRIES];
};

/* SL_E_NOMEM; SL_E_EXHAUSTED: more than 16 entries, a name over 63 bytes, or 2 GiB together. */
sl_status sl_zip_add(struct sl_zip *zip, const char *name, const void *data, size_t bytes);
sl_status sl_zip_end(struct sl_zip *zip); /* writes the directory */
void sl_zip_fini(struct sl_zip *zip);

#endif
