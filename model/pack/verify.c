/* Loading: every block of the mapped files is compared with its digest before a byte of it is believed (weights_impl.h).
 *
 * A team takes blocks in order from one counter, so files of any number and size keep all of it busy, and what is reported is
 * the first wrong block whatever the threads. What is digested is the very memory that is computed with: the mapping, or the
 * private copy, which each block is read into first. Reading a mapping for the first time is also what brings it in, so a
 * verified stage has no page faults left for its first chunk.
 *
 * A pack of an older version has no block digests: its files are compared by SHA-256, and digests are made on the way, for the
 * scrubber (scrub.c).
 *
 * Weights that are apart are never memory here: a file is a range of addresses without access, of which the header alone is read
 * when it is opened. Blocks are read and compared by sl_weights_next, where whoever has other memory takes them; by SHA-256 files
 * are compared before, and what is read later by the digests that were made then. */
#include "base/clock.h"
#include "base/cpu.h"
#include "base/digest.h"
#include "base/log.h"
#include "kernels/team.h"
#include "model/pack/weights_impl.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    AHEAD_BLOCKS = 32,     /* asked of the disk before they are needed */
    BLOCKS_PER_THREAD = 4, /* fewer are not worth a thread */
    PIECE_BLOCKS = 64,     /* that sl_weights_next brings at once */
    SAY_EVERY_MS = 2000
};

struct verifying {
    struct sl_weights_files *files;
    struct sl_loading options;
    struct sl_team *team;
    uint64_t *first;              /* [n + 1]: number of each file's first block */
    uint64_t begin, end;          /* blocks of this walk */
    uint8_t *to;                  /* where they go, one behind the other; NULL: to `copies` */
    uint64_t n_taken;             /* blocks that sl_weights_next has brought */
    uint8_t **copies;             /* [n], NULL: mapped */
    bool blocks;                  /* XXH3, not only copying */
    char (*sha)[65];              /* [n]: of the second walk */
    _Atomic uint64_t done, wrong; /* blocks; the first that is wrong */
    _Atomic int error;            /* errno of a copy that failed; -1: the file is shorter than it was */
    uint64_t bytes, said_ns;
    struct sl_progress bar;
    bool bar_on;
};

/* ---- what is said meanwhile ---- */

/* Member 0 alone. Nothing in the first seconds: what is quick needs no word. */
static void say(struct verifying *v)
{
    uint64_t now = sl_clock_ns(), total = v->first[v->files->n];
    if (v->options.progress == SL_PROGRESS_NONE || now - v->said_ns < SAY_EVERY_MS * 1000000ull)
        return;
    uint64_t done = atomic_load(&v->done);
    if (v->options.progress == SL_PROGRESS_LOG) {
        v->said_ns = now;
        sl_log_info("checking weights: %llu %% of %.1f GiB", (unsigned long long)(done * 100 / total),
                    (double)v->bytes / 1073741824.0);
        return;
    }
    if (!v->bar_on)
        sl_progress_start(&v->bar, true, "checking weights", total * SL_PACK_BLOCK);
    v->bar_on = true;
    sl_progress_add(&v->bar, done * SL_PACK_BLOCK - v->bar.done);
}

/* ---- blocks ---- */

static void note_wrong(struct verifying *v, uint64_t block)
{
    uint64_t before = atomic_load(&v->wrong);
    while (block < before && !atomic_compare_exchange_weak(&v->wrong, &before, block))
        ;
}

/* Reads a block into the memory that will be computed with, or that goes there. */
static bool copy_block(struct verifying *v, const struct sl_weights_file *f, uint8_t *to, uint64_t begin,
                       size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        ssize_t n = pread(f->index.files[0].fd, to + at, bytes - at, (off_t)(begin + at));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            atomic_store(&v->error, n < 0 ? errno : -1);
            return false;
        }
        at += (size_t)n;
    }
    return true;
}

static uint32_t file_of(const struct verifying *v, uint64_t block)
{
    uint32_t low = 0, high = v->files->n;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (v->first[middle] <= block)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* The disk is told what comes: once for many blocks, because asking for what is already here costs, too. */
static void read_ahead(const struct sl_weights_file *f, uint64_t i)
{
    if (i % AHEAD_BLOCKS == 0)
        posix_fadvise(f->index.files[0].fd, (off_t)(i * SL_PACK_BLOCK),
                      2 * (off_t)AHEAD_BLOCKS * SL_PACK_BLOCK, POSIX_FADV_WILLNEED);
}

static void take_block(struct verifying *v, uint64_t block)
{
    uint32_t number = file_of(v, block);
    struct sl_weights_file *f = &v->files->files[number];
    uint64_t i = block - v->first[number];
    size_t bytes;
    const uint8_t *at = sl_weights_block(f, i, &bytes);
    read_ahead(f, i);
    uint8_t *to = v->to               ? v->to + (block - v->begin) * SL_PACK_BLOCK
                  : v->copies[number] ? v->copies[number] + i * SL_PACK_BLOCK
                                      : NULL;
    if (to && !copy_block(v, f, to, i * SL_PACK_BLOCK, bytes)) {
        note_wrong(v, block);
        return;
    }
    if (!v->blocks)
        return;
    uint64_t digest = sl_xxh3(to ? to : at, bytes);
    if (f->own && !v->options.apart)
        f->own[i] = digest;
    else if (digest != f->digests[i])
        note_wrong(v, block);
}

static void walk_blocks(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    struct verifying *v = arg;
    (void)n_members, (void)scratch;
    for (uint64_t block;
         (block = v->begin + sl_team_next(v->team)) < v->end && block < atomic_load(&v->wrong);) {
        take_block(v, block);
        atomic_fetch_add_explicit(&v->done, 1, memory_order_relaxed);
        if (member == 0)
            say(v);
    }
}

/* ---- whole files ---- */

/* A block of a file, which is read into `room` where it is not memory; NULL: it can't be read. */
static const uint8_t *look_at(struct verifying *v, uint32_t number, uint64_t i, void *room, size_t *bytes)
{
    struct sl_weights_file *f = &v->files->files[number];
    const uint8_t *at = sl_weights_block(f, i, bytes);
    if (!v->options.apart)
        return at;
    if (!copy_block(v, f, room, i * SL_PACK_BLOCK, *bytes)) {
        note_wrong(v, v->first[number] + i);
        return NULL;
    }
    if (f->own)
        f->own[i] = sl_xxh3(room, *bytes);
    return room;
}

static void walk_files(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    struct verifying *v = arg;
    (void)n_members;
    for (uint32_t i; (i = sl_team_next(v->team)) < v->files->n;) {
        struct sl_sha256 *sha = sl_sha256_begin();
        uint64_t n = v->first[i + 1] - v->first[i];
        v->sha[i][0] = '\0';
        for (uint64_t block = 0; sha && block < n; block++) {
            size_t bytes;
            const uint8_t *at = look_at(v, i, block, scratch, &bytes);
            if (!at)
                break;
            sl_sha256_add(sha, at, bytes);
            atomic_fetch_add_explicit(&v->done, 1, memory_order_relaxed);
            if (member == 0)
                say(v);
        }
        if (sha)
            sl_sha256_end(sha, v->sha[i]);
    }
}

/* ---- sentences ---- */

/* The tensors of a block, as "tensor 'a'" or "tensors 'a' to 'b'". Read from the damaged file itself, so nothing but names
 * that can be printed is believed of it. */
static void name_tensors(const struct sl_weights_file *f, uint64_t block, char *text, size_t room)
{
    struct sl_index index = {0};
    const struct sl_st_file *st = &f->index.files[0];
    const struct sl_tensor *first = NULL, *last = NULL;
    uint64_t begin = block * SL_PACK_BLOCK, end = begin + SL_PACK_BLOCK;
    snprintf(text, room, "its header");
    if (sl_safetensors_parse(&index, st->map, (size_t)st->bytes, st->bytes, f->file->name, NULL) != SL_OK)
        return;
    for (uint32_t i = 0; i < index.n_tensors; i++) {
        const struct sl_tensor *t = &index.tensors[i];
        if (t->end <= begin || t->begin >= end || strncmp(t->name, "__pad.", 6) == 0)
            continue;
        first = !first || t->begin < first->begin ? t : first;
        last = !last || t->begin > last->begin ? t : last;
    }
    if (first && first == last)
        snprintf(text, room, "tensor '%.40s'", first->name);
    else if (first)
        snprintf(text, room, "tensors '%.40s' to '%.40s'", first->name, last->name);
    sl_index_close(&index);
}

sl_status sl_weights_damaged(const struct sl_weights_file *f, const char *pack_path, uint64_t block,
                             struct sl_err *err)
{
    char where[120];
    name_tensors(f, block, where, sizeof where);
    return sl_fail(
        err, SL_E_DATA,
        "%.140s: %.60s has other bytes than when it was packed, in MiB %llu (%s); fetch it again, or pack the "
        "checkpoint again",
        pack_path, f->file->name, (unsigned long long)block, where);
}

static sl_status first_wrong(const struct verifying *v, struct sl_err *err)
{
    uint64_t block = atomic_load(&v->wrong);
    if (block == UINT64_MAX)
        return SL_OK;
    uint32_t number = file_of(v, block);
    const struct sl_weights_file *f = &v->files->files[number];
    int error = atomic_load(&v->error);
    if (error > 0)
        return sl_fail(err, SL_E_IO, "can't read %.200s: %s", f->path, strerror(error));
    if (error < 0)
        return sl_fail(err, SL_E_DATA, "%.200s became shorter while it was read; fetch it again", f->path);
    return sl_weights_damaged(f, sl_pack_path(v->files->pack), block - v->first[number], err);
}

/* ---- digests and copies ---- */

static sl_status compare_files(struct verifying *v, struct sl_err *err)
{
    atomic_store(&v->done, 0);
    v->sha = calloc(v->files->n, sizeof *v->sha);
    if (!v->sha)
        return sl_fail(err, SL_E_NOMEM, "no memory to verify the weights");
    sl_team_run(v->team, walk_files, v);
    SL_TRY(first_wrong(v, err));
    for (uint32_t i = 0; i < v->files->n; i++) {
        const struct sl_weights_file *f = &v->files->files[i];
        if (!v->sha[i][0])
            return sl_fail(err, SL_E_NOMEM, "no memory to verify %.60s", f->file->name);
        if (strcmp(v->sha[i], f->file->sha256) != 0)
            return sl_fail(
                err, SL_E_DATA,
                "%.140s: %.60s has other bytes than when it was packed (SHA-256 differs); fetch it again, or "
                "pack the checkpoint again",
                sl_pack_path(v->files->pack), f->file->name);
    }
    return SL_OK;
}

static sl_status take_copies(struct verifying *v, struct sl_err *err)
{
    for (uint32_t i = 0; v->options.copy && i < v->files->n; i++) {
        uint64_t bytes = v->files->files[i].index.files[0].bytes;
        void *copy = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (copy == MAP_FAILED)
            return sl_fail(err, SL_E_NOMEM,
                           "no memory for a private copy of %.60s (%llu bytes); use --weights map",
                           v->files->files[i].file->name, (unsigned long long)bytes);
        madvise(copy, (size_t)bytes, MADV_HUGEPAGE);
        v->copies[i] = copy;
    }
    return SL_OK;
}

/* Other memory takes the place of the mapping, which nobody has looked at. */
static void replace_map(struct sl_weights_file *f, const uint8_t *map)
{
    struct sl_st_file *st = &f->index.files[0];
    sl_mapping_forget(f->mapping);
    f->mapping = NULL;
    munmap((void *)(uintptr_t)st->map, (size_t)st->bytes);
    st->map = map;
    f->copied = true;
}

static void keep_copies(struct verifying *v)
{
    for (uint32_t i = 0; i < v->files->n; i++) {
        const struct sl_st_file *st = &v->files->files[i].index.files[0];
        if (!v->copies[i])
            continue;
        mprotect(v->copies[i], (size_t)st->bytes, PROT_READ);
        replace_map(&v->files->files[i], v->copies[i]);
        v->copies[i] = NULL;
    }
}

static sl_status take_digests(struct verifying *v, bool *by_sha, struct sl_err *err)
{
    for (uint32_t i = 0; i < v->files->n; i++) {
        struct sl_weights_file *f = &v->files->files[i];
        f->digests =
            sl_pack_digests_of(v->files->pack, (uint32_t)(f->file - sl_pack_manifest(v->files->pack)->files));
        if (f->digests)
            continue;
        *by_sha = true;
        f->own = calloc(sl_blocks_of(f->file->bytes) + 1, sizeof *f->own);
        if (!f->own)
            return sl_fail(err, SL_E_NOMEM, "no memory for the digests of %.60s", f->file->name);
        f->digests = f->own;
    }
    return SL_OK;
}

static sl_status walk(struct verifying *v, uint64_t begin, uint64_t end, uint8_t *to, struct sl_err *err)
{
    v->begin = begin;
    v->end = end;
    v->to = to;
    sl_team_run(v->team, walk_blocks, v);
    return first_wrong(v, err);
}

/* ---- weights that are apart ---- */

static uint64_t header_bytes(const struct sl_st_file *st)
{
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | st->map[i];
    return n > st->bytes - 8 ? 8 : n + 8; /* more than there is: the parser says so */
}

static sl_status read_blocks(struct verifying *v, uint32_t number, uint64_t n, struct sl_err *err)
{
    const struct sl_st_file *st = &v->files->files[number].index.files[0];
    uint8_t *map = (uint8_t *)(uintptr_t)st->map;
    uint64_t bytes = n * SL_PACK_BLOCK;
    mprotect(map, (size_t)(bytes < st->bytes ? bytes : st->bytes), PROT_READ | PROT_WRITE);
    return walk(v, v->first[number], v->first[number] + n, map, err);
}

/* What takes the place of the mapping are addresses, and nothing at them but the header. */
static sl_status set_apart(struct verifying *v, uint32_t number, struct sl_err *err)
{
    struct sl_weights_file *f = &v->files->files[number];
    struct sl_st_file *st = &f->index.files[0];
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = (size_t)st->bytes;
    uint8_t *map = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return sl_fail(err, SL_E_NOMEM, "no memory to read %.60s", f->file->name);
    replace_map(f, map);
    SL_TRY(read_blocks(v, number, 1, err));
    size_t head = (size_t)header_bytes(st);
    if (sl_blocks_of(head) > 1)
        SL_TRY(read_blocks(v, number, sl_blocks_of(head), err));
    size_t kept = (head + page - 1) / page * page;
    mprotect(map, kept, PROT_READ);
    if (kept < bytes) {
        mprotect(map + kept, bytes - kept, PROT_NONE);
        madvise(map + kept, bytes - kept, MADV_DONTNEED);
    }
    return SL_OK;
}

static sl_status set_all_apart(struct verifying *v, struct sl_err *err)
{
    for (uint32_t i = 0; i < v->files->n; i++)
        SL_TRY(set_apart(v, i, err));
    atomic_store(&v->done, 0);
    return SL_OK;
}

size_t sl_weights_piece(const struct sl_weights *weights)
{
    const struct sl_weights_files *files = weights->private_maps;
    uint64_t most = 1;
    for (uint32_t i = 0; i < files->n; i++)
        most = most < sl_blocks_of(files->files[i].file->bytes) ? sl_blocks_of(files->files[i].file->bytes)
                                                                : most;
    return (size_t)(most < PIECE_BLOCKS ? most : PIECE_BLOCKS) * SL_PACK_BLOCK;
}

sl_status sl_weights_next(struct sl_weights *weights, void *to, const void **from, size_t *bytes,
                          struct sl_err *err)
{
    const struct sl_weights_files *files = weights->private_maps;
    struct verifying *v = files->apart;
    *bytes = 0;
    if (!v || v->n_taken == v->first[files->n])
        return SL_OK;
    uint64_t begin = v->n_taken;
    uint32_t number = file_of(v, begin);
    const struct sl_weights_file *f = &files->files[number];
    uint64_t i = begin - v->first[number], left = v->first[number + 1] - begin;
    uint64_t n = left < PIECE_BLOCKS ? left : PIECE_BLOCKS;
    SL_TRY(walk(v, begin, begin + n, to, err));
    size_t of_last;
    *from = sl_weights_block(f, i, &of_last);
    sl_weights_block(f, i + n - 1, &of_last);
    *bytes = (size_t)(n - 1) * SL_PACK_BLOCK + of_last;
    v->n_taken = begin + n;
    return SL_OK;
}

/* ---- the whole ---- */

static sl_status begin(struct verifying *v, bool *by_sha, struct sl_err *err)
{
    *by_sha = v->options.verify == SL_VERIFY_FULL;
    v->blocks = v->options.verify != SL_VERIFY_OFF;
    v->first = calloc(v->files->n + 1, sizeof *v->first);
    v->copies = calloc(v->files->n, sizeof *v->copies);
    if (!v->first || !v->copies)
        return sl_fail(err, SL_E_NOMEM, "no memory to verify the weights");
    for (uint32_t i = 0; i < v->files->n; i++) {
        v->first[i + 1] = v->first[i] + sl_blocks_of(v->files->files[i].file->bytes);
        v->bytes += v->files->files[i].file->bytes;
    }
    if (v->blocks)
        SL_TRY(take_digests(v, by_sha, err));
    uint64_t most = v->first[v->files->n] / BLOCKS_PER_THREAD + 1;
    uint32_t threads = sl_cpu_threads(v->options.threads, 1);
    return sl_team_create(&v->team, threads < most ? threads : (uint32_t)most,
                          v->options.apart && *by_sha ? SL_PACK_BLOCK : 0, err);
}

static sl_status run(struct verifying *v, struct sl_err *err)
{
    bool by_sha;
    SL_TRY(begin(v, &by_sha, err));
    if (!v->options.apart) {
        SL_TRY(take_copies(v, err));
        SL_TRY(walk(v, 0, v->first[v->files->n], NULL, err));
        keep_copies(v);
    }
    if (v->blocks && by_sha && v->options.verify != SL_VERIFY_FULL)
        sl_log_info("%s has no digests of blocks, so its files are compared by SHA-256, which takes longer; "
                    "`sluice check --add` makes them",
                    sl_pack_path(v->files->pack));
    if (v->blocks && by_sha)
        SL_TRY(compare_files(v, err));
    return v->options.apart ? set_all_apart(v, err) : SL_OK;
}

static void end(struct verifying *v)
{
    if (v->bar_on)
        sl_progress_end(&v->bar);
    sl_team_destroy(v->team);
    for (uint32_t i = 0; v->copies && i < v->files->n; i++)
        if (v->copies[i])
            munmap(v->copies[i], (size_t)v->files->files[i].index.files[0].bytes);
    free(v->first);
    free(v->copies);
    free(v->sha);
    free(v);
}

sl_status sl_weights_verify(struct sl_weights_files *files, const struct sl_loading *options,
                            struct sl_err *err)
{
    if (files->n == 0 || (options->verify == SL_VERIFY_OFF && !options->copy && !options->apart))
        return SL_OK;
    struct verifying *v = calloc(1, sizeof *v);
    if (!v)
        return sl_fail(err, SL_E_NOMEM, "no memory to verify the weights");
    v->files = files;
    v->options = *options;
    v->wrong = UINT64_MAX;
    v->said_ns = sl_clock_ns();
    sl_status status = run(v, err);
    if (status == SL_OK && options->apart)
        files->apart = v;
    else
        end(v);
    return status;
}

void sl_weights_verify_end(struct sl_weights_files *files)
{
    if (files->apart)
        end(files->apart);
    files->apart = NULL;
}
