/* Zip without compression (APPNOTE.TXT 4.3: local headers with their data, then the central
 * directory and its end record). Stored, because the reader is on the same machine or network and a
 * deflater would be a library more; every date is the format's first day, so that the archive of a
 * model never changes and its SHA-256 can be compared. */
#include "node/edge/zip.h"
#include "base/bytes.h"
#include "base/digest.h"
#include <stdlib.h>
#include <string.h>

enum {
    LOCAL_BYTES = 30,
    CENTRAL_BYTES = 46,
    END_BYTES = 22,
    LOCAL_MAGIC = 0x04034b50,
    CENTRAL_MAGIC = 0x02014b50,
    END_MAGIC = 0x06054b50,
    VERSION = 20,
    UTF8_NAMES = 1 << 11,
    FIRST_DAY = (0 << 9) | (1 << 5) | 1 /* 1980-01-01 */
};
static const size_t max_bytes = (size_t)2 << 30; /* far from the format's 4 GiB limit */

static sl_status make_room(struct sl_zip *zip, size_t more)
{
    if (more > max_bytes || zip->bytes + more > max_bytes)
        return SL_E_EXHAUSTED;
    if (zip->bytes + more <= zip->room)
        return SL_OK;
    size_t room = zip->room * 2 > zip->bytes + more ? zip->room * 2 : zip->bytes + more;
    uint8_t *grown = realloc(zip->data, room);
    if (!grown)
        return SL_E_NOMEM;
    zip->data = grown;
    zip->room = room;
    return SL_OK;
}

/* The fields that both kinds of header share, from the version to the lengths of name and extra
 * field. */
static void put_common(struct sl_cursor *at, uint32_t crc, uint32_t bytes, size_t name_bytes)
{
    sl_cursor_put16(at, VERSION);
    sl_cursor_put16(at, UTF8_NAMES);
    sl_cursor_put16(at, 0); /* stored */
    sl_cursor_put16(at, 0); /* midnight */
    sl_cursor_put16(at, FIRST_DAY);
    sl_cursor_put32(at, crc);
    sl_cursor_put32(at, bytes); /* packed, and unpacked */
    sl_cursor_put32(at, bytes);
    sl_cursor_put16(at, (uint16_t)name_bytes);
    sl_cursor_put16(at, 0);
}

sl_status sl_zip_add(struct sl_zip *zip, const char *name, const void *data, size_t bytes)
{
    size_t name_bytes = strlen(name);
    if (zip->n_entries == SL_ZIP_MAX_ENTRIES || name_bytes >= sizeof zip->entries[0].name ||
        bytes > max_bytes)
        return SL_E_EXHAUSTED;
    size_t whole = LOCAL_BYTES + name_bytes + bytes;
    SL_TRY(make_room(zip, whole));
    uint32_t crc = sl_crc32_zip(0, data, bytes);
    struct sl_cursor at = sl_cursor_over(zip->data + zip->bytes, whole);
    sl_cursor_put32(&at, LOCAL_MAGIC);
    put_common(&at, crc, (uint32_t)bytes, name_bytes);
    sl_cursor_put(&at, name, name_bytes);
    sl_cursor_put(&at, data, bytes);
    uint32_t i = zip->n_entries++;
    zip->entries[i].offset = (uint32_t)zip->bytes;
    zip->entries[i].bytes = (uint32_t)bytes;
    zip->entries[i].crc = crc;
    memcpy(zip->entries[i].name, name, name_bytes + 1);
    zip->bytes += whole;
    return SL_OK;
}

sl_status sl_zip_end(struct sl_zip *zip)
{
    size_t directory = 0;
    for (uint32_t i = 0; i < zip->n_entries; i++)
        directory += CENTRAL_BYTES + strlen(zip->entries[i].name);
    SL_TRY(make_room(zip, directory + END_BYTES));
    struct sl_cursor at = sl_cursor_over(zip->data + zip->bytes, directory + END_BYTES);
    for (uint32_t i = 0; i < zip->n_entries; i++) {
        size_t name_bytes = strlen(zip->entries[i].name);
        sl_cursor_put32(&at, CENTRAL_MAGIC);
        sl_cursor_put16(&at, VERSION); /* made by */
        put_common(&at, zip->entries[i].crc, zip->entries[i].bytes, name_bytes);
        sl_cursor_put16(&at, 0); /* no comment */
        sl_cursor_put16(&at, 0); /* disk 0 */
        sl_cursor_put16(&at, 0); /* attributes */
        sl_cursor_put32(&at, 0);
        sl_cursor_put32(&at, zip->entries[i].offset);
        sl_cursor_put(&at, zip->entries[i].name, name_bytes);
    }
    sl_cursor_put32(&at, END_MAGIC);
    sl_cursor_put32(&at, 0); /* disks */
    sl_cursor_put16(&at, (uint16_t)zip->n_entries);
    sl_cursor_put16(&at, (uint16_t)zip->n_entries);
    sl_cursor_put32(&at, (uint32_t)directory);
    sl_cursor_put32(&at, (uint32_t)zip->bytes);
    sl_cursor_put16(&at, 0);
    zip->bytes += directory + END_BYTES;
    return at.bad ? SL_E_INTERNAL : SL_OK;
}

void sl_zip_fini(struct sl_zip *zip)
{
    free(zip->data);
    memset(zip, 0, sizeof *zip);
}
