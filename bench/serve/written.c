/* Files that a measurement leaves behind (written.h). Numbers have nine significant digits: more than any
 * clock here is good for, and a ms of an hour is kept to less than the resolution of a histogram. */
#include "bench/serve/written.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

sl_status sl_written_open(struct sl_written *written, const char *what, const char *path, struct sl_err *err)
{
    struct stat there;
    *written = (struct sl_written){.what = what, .path = path};
    if (stat(path, &there) != 0 || S_ISREG(there.st_mode)) {
        if (asprintf(&written->beside, "%s.%ld.tmp", path, (long)getpid()) < 0) {
            written->beside = NULL;
            return sl_fail(err, SL_E_NOMEM, "no memory to write the %s %s", what, path);
        }
    }
    written->to = fopen(written->beside ? written->beside : path, "w");
    if (written->to)
        return SL_OK;
    int why = errno;
    free(written->beside);
    written->beside = NULL;
    return sl_fail(err, SL_E_IO, "cannot write the %s %s: %s", what, path, strerror(why));
}

void sl_written_drop(struct sl_written *written)
{
    if (written->to)
        fclose(written->to);
    if (written->beside)
        unlink(written->beside);
    free(written->beside);
    written->to = NULL;
    written->beside = NULL;
}

sl_status sl_written_close(struct sl_written *written, struct sl_err *err)
{
    errno = 0;
    bool bad = fflush(written->to) != 0 || ferror(written->to);
    int why = errno;
    if (fclose(written->to) != 0 && !bad) {
        bad = true;
        why = errno;
    }
    written->to = NULL;
    if (!bad && written->beside && rename(written->beside, written->path) != 0) {
        bad = true;
        why = errno;
    }
    sl_status status = SL_OK;
    if (bad)
        status = sl_fail(err, SL_E_IO, "cannot write the %s %s: %s", written->what, written->path,
                         why ? strerror(why) : "is the disk full?");
    if (bad && written->beside)
        unlink(written->beside);
    free(written->beside);
    written->beside = NULL;
    return status;
}

/* The next character, and how many bytes it takes; U+FFFD for a byte that begins none. */
static uint32_t next_character(const unsigned char *at, uint32_t *bytes)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t n = at[0] < 0x80         ? 1
                 : (at[0] >> 5) == 6  ? 2
                 : (at[0] >> 4) == 14 ? 3
                 : (at[0] >> 3) == 30 ? 4
                                      : 0;
    *bytes = 1;
    if (n == 1)
        return at[0];
    uint32_t c = n ? at[0] & (0xffu >> (n + 1)) : 0;
    for (uint32_t i = 1; i < n; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0xfffd;
        c = c << 6 | (at[i] & 0x3fu);
    }
    if (n == 0 || c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) || (c & 0xfffe) == 0xfffe)
        return 0xfffd;
    *bytes = n;
    return c;
}

void sl_write_html(FILE *to, const char *text)
{
    const unsigned char *at = (const unsigned char *)text;
    for (uint32_t bytes; *at; at += bytes) {
        uint32_t c = next_character(at, &bytes);
        if (c == '<')
            fputs("&lt;", to);
        else if (c == '>')
            fputs("&gt;", to);
        else if (c == '&')
            fputs("&amp;", to);
        else if (c == '"')
            fputs("&quot;", to);
        else if (c == '\n' || c == '\t')
            fputc(' ', to);
        else if (c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0xfffd)
            fputs("\xef\xbf\xbd", to);
        else
            fwrite(at, 1, bytes, to);
    }
}

void sl_write_json(FILE *to, const char *text)
{
    if (!text) {
        fputs("null", to);
        return;
    }
    const unsigned char *at = (const unsigned char *)text;
    fputc('"', to);
    for (uint32_t bytes; *at; at += bytes) {
        uint32_t c = next_character(at, &bytes);
        if (c == '"' || c == '\\')
            fprintf(to, "\\%c", (char)c);
        else if (c < 0x20 || c == 0x7f || c == 0x2028 || c == 0x2029 || c == 0xfffd)
            fprintf(to, "\\u%04" PRIx32, c);
        else
            fwrite(at, 1, bytes, to);
    }
    fputc('"', to);
}

void sl_write_key(FILE *to, const char *key, bool first)
{
    fputs(first ? "" : ", ", to);
    sl_write_json(to, key);
    fputs(": ", to);
}

void sl_write_number(FILE *to, double value)
{
    if (isfinite(value))
        fprintf(to, "%.9g", value);
    else
        fputs("null", to);
}
