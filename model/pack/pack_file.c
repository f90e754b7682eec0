/* The bytes of a pack's files: safetensors layout, the output stream, the progress bar
 * (pack_impl.h).
 *
 * A panel must begin at a cache line and the data section at a page, but safetensors allows no
 * holes. So the header is padded with spaces to a page, and gaps between tensors are tensors
 * themselves ("__pad.N", U8 zeros): any reader opens the file, and the digest covers every byte.
 * The stream digests what it writes, on the way, so a pack is written once and never read back. */
#include "base/bytes.h"
#include "base/clock.h"
#include "base/digest.h"
#include "model/pack/pack_impl.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { OUT_BUFFER = SL_PACK_BLOCK }; /* so that what is flushed is a block */

/* ---- layout ---- */

uint64_t sl_layout_data_bytes(const struct sl_layout *layout)
{
    return layout->n_tensors ? layout->tensors[layout->n_tensors - 1].end : 0;
}

static struct sl_layout_tensor *layout_next(struct sl_layout *layout, const char *dtype, uint64_t bytes)
{
    assert(layout->n_tensors < SL_PACK_MAX_TENSORS);
    uint64_t begin = sl_layout_data_bytes(layout);
    struct sl_layout_tensor *t = &layout->tensors[layout->n_tensors++];
    *t = (struct sl_layout_tensor){.dtype = dtype, .begin = begin, .end = begin + bytes};
    return t;
}

void sl_layout_add(struct sl_layout *layout, const char *name, enum sl_dtype dtype, uint32_t rank,
                   const uint64_t *shape)
{
    uint64_t rest = sl_layout_data_bytes(layout) % SL_PACK_ALIGN;
    if (rest != 0) {
        uint64_t gap = SL_PACK_ALIGN - rest;
        struct sl_layout_tensor *pad = layout_next(layout, "U8", gap);
        snprintf(pad->name, sizeof pad->name, "__pad.%u", layout->n_pads++);
        pad->rank = 1;
        pad->shape[0] = gap;
    }
    assert(rank <= 4 && strlen(name) < sizeof layout->tensors[0].name);
    uint64_t bytes = sl_dtype_bytes(dtype);
    for (uint32_t i = 0; i < rank; i++)
        bytes *= shape[i];
    struct sl_layout_tensor *t = layout_next(layout,
                                             sl_dtype_is_integer(dtype) ? "U8"
                                             : dtype == SL_BF16         ? "BF16"
                                                                        : "F32",
                                             bytes);
    strcpy(t->name, name);
    t->rank = rank;
    memcpy(t->shape, shape, rank * sizeof *shape);
}

static void print_tensor(FILE *f, const struct sl_layout_tensor *t)
{
    fprintf(f, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name, t->dtype);
    for (uint32_t i = 0; i < t->rank; i++)
        fprintf(f, "%s%llu", i ? "," : "", (unsigned long long)t->shape[i]);
    fprintf(f, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)t->begin, (unsigned long long)t->end);
}

sl_status sl_layout_header(const struct sl_layout *layout, uint8_t **head, size_t *bytes, struct sl_err *err)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    *head = NULL;
    if (!f)
        return sl_fail(err, SL_E_NOMEM, "no memory for a file header");
    fprintf(f, "????????{\"__metadata__\":{\"format\":\"sluice-pack-%d\"}", SL_PACK_FORMAT);
    for (uint32_t i = 0; i < layout->n_tensors; i++)
        print_tensor(f, &layout->tensors[i]);
    fputc('}', f);
    while (ftello(f) % SL_PACK_PAGE != 0)
        fputc(' ', f);
    if (fclose(f) != 0) {
        free(text);
        return sl_fail(err, SL_E_NOMEM, "no memory for a file header");
    }
    sl_put64((uint8_t *)text, n - 8);
    *head = (uint8_t *)text;
    *bytes = n;
    return SL_OK;
}

/* ---- output ---- */

sl_status sl_out_open(struct sl_out *out, const char *path, uint64_t needed, struct sl_progress *progress,
                      struct sl_err *err)
{
    *out = (struct sl_out){.fd = -1, .path = path, .needed = needed, .progress = progress};
    out->buffer = malloc(OUT_BUFFER);
    out->sha = sl_sha256_begin();
    if (!out->buffer || !out->sha)
        return sl_fail(err, SL_E_NOMEM, "no memory to write %.200s", path);
    out->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (out->fd < 0)
        return sl_fail(err, SL_E_IO, "can't create %.200s: %s", path, strerror(errno));
    return SL_OK;
}

static sl_status write_error(const struct sl_out *out, int number, struct sl_err *err)
{
    if (number == ENOSPC || number == EDQUOT || number == EFBIG)
        return sl_fail(err, SL_E_IO,
                       "no room to write %.160s (%s): the pack needs %llu bytes; free some or choose "
                       "another place",
                       out->path, strerror(number), (unsigned long long)out->needed);
    return sl_fail(err, SL_E_IO, "can't write %.200s: %s", out->path, strerror(number));
}

static sl_status add_digest(struct sl_out *out, struct sl_err *err)
{
    if (!out->digests || out->held == 0)
        return SL_OK;
    uint64_t n = *out->n_digests;
    if ((n & (n - 1)) == 0) { /* full at each power of two */
        uint64_t *more = realloc(*out->digests, (n ? 2 * n : 1) * sizeof *more);
        if (!more)
            return sl_fail(err, SL_E_NOMEM, "no memory for the digests of %.200s", out->path);
        *out->digests = more;
    }
    (*out->digests)[(*out->n_digests)++] = sl_xxh3(out->buffer, out->held);
    return SL_OK;
}

static sl_status flush(struct sl_out *out, struct sl_err *err)
{
    SL_TRY(add_digest(out, err));
    for (size_t at = 0; at < out->held;) {
        ssize_t n = write(out->fd, out->buffer + at, out->held - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return write_error(out, errno, err);
        at += (size_t)n;
    }
    sl_sha256_add(out->sha, out->buffer, out->held);
    out->written += out->held;
    sl_progress_add(out->progress, out->held);
    out->held = 0;
    return SL_OK;
}

sl_status sl_out_write(struct sl_out *out, const void *data, size_t bytes, struct sl_err *err)
{
    const uint8_t *from = data;
    while (bytes > 0) {
        size_t n = OUT_BUFFER - out->held;
        n = n < bytes ? n : bytes;
        memcpy(out->buffer + out->held, from, n);
        out->held += n;
        from += n;
        bytes -= n;
        if (out->held == OUT_BUFFER)
            SL_TRY(flush(out, err));
    }
    return SL_OK;
}

sl_status sl_out_finish(struct sl_out *out, struct sl_pack_file *file, struct sl_err *err)
{
    SL_TRY(flush(out, err));
    if (fsync(out->fd) != 0)
        return write_error(out, errno, err);
    int fd = out->fd;
    out->fd = -1;
    if (close(fd) != 0)
        return write_error(out, errno, err);
    file->bytes = out->written;
    sl_sha256_end(out->sha, file->sha256);
    out->sha = NULL;
    sl_out_abandon(out);
    return SL_OK;
}

void sl_out_abandon(struct sl_out *out)
{
    char ignored[65];
    if (out->fd >= 0)
        close(out->fd);
    if (out->sha)
        sl_sha256_end(out->sha, ignored);
    free(out->buffer);
    out->fd = -1;
    out->sha = NULL;
    out->buffer = NULL;
}

/* ---- progress ---- */

void sl_progress_start(struct sl_progress *progress, bool on, const char *label, uint64_t total)
{
    *progress = (struct sl_progress){
        .on = on && total > 0, .label = label, .total = total, .begin_ns = sl_clock_ns()};
    progress->terminal = progress->on && isatty(STDERR_FILENO);
    sl_progress_add(progress, 0);
}

/* "1:02:03 left": the time so far, in proportion to what is missing; "" while there is nothing to
 * go by. */
static void remaining(const struct sl_progress *p, char *text, size_t room)
{
    double passed = (double)(sl_clock_ns() - p->begin_ns) * 1e-9;
    text[0] = '\0';
    if (passed < 1 || p->done == 0 || p->done >= p->total)
        return;
    double left = passed * (double)(p->total - p->done) / (double)p->done + 0.5;
    unsigned long seconds = left < 1e7 ? (unsigned long)left : 9999999;
    if (seconds >= 3600)
        snprintf(text, room, "  %lu:%02lu:%02lu left", seconds / 3600, seconds / 60 % 60, seconds % 60);
    else
        snprintf(text, room, "  %lu:%02lu left", seconds / 60, seconds % 60);
}

static void draw(const struct sl_progress *p, uint32_t mille)
{
    enum { WIDTH = 40 };
    char bar[WIDTH + 1], left[40];
    for (uint32_t i = 0; i < WIDTH; i++)
        bar[i] = i * 1000 < mille * WIDTH ? '#' : '.';
    bar[WIDTH] = '\0';
    remaining(p, left, sizeof left);
    fprintf(stderr, "\r%s [%s] %3u %%  %llu of %llu MiB%s\033[K", p->label, bar, mille / 10,
            (unsigned long long)(p->done >> 20), (unsigned long long)(p->total >> 20), left);
}

void sl_progress_add(struct sl_progress *progress, uint64_t bytes)
{
    progress->done += bytes;
    if (!progress->on)
        return;
    uint64_t done = progress->done < progress->total ? progress->done : progress->total;
    uint32_t mille = (uint32_t)((double)done / (double)progress->total * 1000);
    uint32_t step = progress->terminal ? mille : mille / 100;
    if (step + 1 <= progress->shown)
        return;
    progress->shown = step + 1;
    if (progress->terminal)
        draw(progress, mille);
    else {
        char left[40];
        remaining(progress, left, sizeof left);
        fprintf(stderr, "%s: %u %%%s\n", progress->label, step * 10, left);
    }
}

void sl_progress_end(struct sl_progress *progress)
{
    if (progress->terminal && progress->shown)
        fputc('\n', stderr);
    progress->on = false;
}
