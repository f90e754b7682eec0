/* The thread of scrub.h: a look at every file four times a second, then blocks in turn until its share is used up, or as many are
 * compared as make a round in time. */
#include "model/pack/scrub.h"
#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"
#include "model/pack/weights_impl.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LOOK_MS = 250, SHARE = 200 /* half a hundredth of one processor */, NICE = 19 };
enum { ROUND_MS = 10000 };

struct scrubbed {      /* a file */
    uint64_t *good_ns; /* of each block: when it was last compared */
    uint64_t n_blocks;
    struct stat known;
    bool again;    /* compare it at the next look, too */
    bool replaced; /* another file lies where it was opened: said once */
};

struct sl_scrubber {
    const struct sl_weights_files *files;
    struct sl_scrub_config config;
    struct scrubbed *scrubbed; /* [files->n] */
    uint64_t n_blocks;         /* of all files */
    uint32_t file;             /* where the round is */
    uint64_t block;
    uint64_t look_ns; /* the last look that found nothing changed, or whole */
    struct sl_spoiled spoiled;
    _Atomic bool found;
    _Atomic uint64_t cpu_ns, bytes;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop;
};

/* ---- what is found ---- */

static void spoil(struct sl_scrubber *s, uint64_t good_ns, const struct sl_err *err)
{
    snprintf(s->spoiled.sentence, sizeof s->spoiled.sentence, "%s", err->text);
    s->spoiled.good_ns = good_ns;
    atomic_store(&s->found, true);
    s->config.on_spoiled(s->config.user, &s->spoiled);
}

/* since_ns: before it the file is known to have been whole; 0: what is known is when the block was compared. */
static bool compare_block(struct sl_scrubber *s, uint32_t file, uint64_t block, uint64_t since_ns)
{
    const struct sl_weights_file *f = &s->files->files[file];
    struct scrubbed *x = &s->scrubbed[file];
    uint64_t now = sl_clock_ns();
    size_t bytes;
    const uint8_t *at = sl_weights_block(f, block, &bytes);
    struct sl_err err;
    bool whole = sl_xxh3(at, bytes) == f->digests[block];
    atomic_fetch_add_explicit(&s->bytes, bytes, memory_order_relaxed);
    if (whole && !(f->mapping && sl_mapping_faulted(f->mapping))) {
        x->good_ns[block] = now;
        return true;
    }
    if (f->mapping && sl_mapping_faulted(f->mapping))
        return true; /* zeros in its place: the look says what happened */
    sl_weights_damaged(f, sl_pack_path(s->files->pack), block, &err);
    spoil(s, since_ns > x->good_ns[block] ? since_ns : x->good_ns[block], &err);
    return false;
}

static bool compare_file(struct sl_scrubber *s, uint32_t file, uint64_t since_ns)
{
    for (uint64_t i = 0; i < s->scrubbed[file].n_blocks; i++)
        if (!compare_block(s, file, i, since_ns))
            return false;
    return true;
}

/* ---- the look ---- */

static bool same_time(const struct timespec *a, const struct timespec *b)
{
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static void note_replaced(struct sl_scrubber *s, uint32_t file, const struct stat *now)
{
    struct stat there;
    struct scrubbed *x = &s->scrubbed[file];
    const char *path = s->files->files[file].path;
    if (x->replaced ||
        (stat(path, &there) == 0 && there.st_ino == now->st_ino && there.st_dev == now->st_dev))
        return;
    x->replaced = true;
    sl_log_warn(
        "%s was replaced or removed; this node goes on with the file that it has open, restart it for the other",
        path);
}

static bool look_at(struct sl_scrubber *s, uint32_t file)
{
    const struct sl_weights_file *f = &s->files->files[file];
    struct scrubbed *x = &s->scrubbed[file];
    struct stat now;
    struct sl_err err;
    if (f->copied)
        return true;
    bool known = fstat(f->index.files[0].fd, &now) == 0, faulted = sl_mapping_faulted(f->mapping);
    bool resized = known && (uint64_t)now.st_size != f->file->bytes;
    if (!known && !faulted)
        return true;
    if (faulted || resized) {
        sl_fail(&err, SL_E_DATA,
                "%.200s %s while it was in use; fetch it again, or pack the checkpoint again", f->path,
                resized ? "changed its size" : "could not be read");
        spoil(s, s->look_ns, &err);
        return false;
    }
    bool changed = !same_time(&now.st_mtim, &x->known.st_mtim) || !same_time(&now.st_ctim, &x->known.st_ctim);
    bool wanted = changed || x->again;
    x->again = changed; /* a second write in the same tick of its clock would not be seen */
    x->known = now;
    note_replaced(s, file, &now);
    if (!wanted || !f->digests)
        return true;
    if (!compare_file(s, file, s->look_ns))
        return false;
    if (changed)
        sl_log_info("%s was touched, and holds what it did", f->path);
    return true;
}

static bool look(struct sl_scrubber *s)
{
    uint64_t began = sl_clock_ns();
    for (uint32_t i = 0; i < s->files->n; i++)
        if (!look_at(s, i))
            return false;
    s->look_ns = began;
    return true;
}

/* ---- the round ---- */

static void next_block(struct sl_scrubber *s)
{
    if (++s->block < s->scrubbed[s->file].n_blocks)
        return;
    s->block = 0;
    s->file = (s->file + 1) % s->files->n;
}

/* Blocks in turn, as long as the thread has had less than its share since `since_ns`; no more than make a round in ROUND_MS: a node
 * of few weights, which does nothing, is to cost nothing. */
static bool go_round(struct sl_scrubber *s, uint64_t since_ns, uint64_t since_cpu_ns)
{
    if (!s->files->files[0].digests)
        return true;
    uint64_t left = s->n_blocks * LOOK_MS / ROUND_MS + 1;
    while (left-- > 0 && (sl_clock_thread_ns() - since_cpu_ns) * SHARE < sl_clock_ns() - since_ns) {
        if (s->scrubbed[s->file].n_blocks > 0 && !compare_block(s, s->file, s->block, 0))
            return false;
        next_block(s);
    }
    return true;
}

static bool wait_for_look(struct sl_scrubber *s)
{
    uint64_t until = sl_clock_ns() + LOOK_MS * 1000000ull;
    struct timespec t = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
    pthread_mutex_lock(&s->lock);
    while (!s->stop && pthread_cond_timedwait(&s->wake, &s->lock, &t) == 0)
        ;
    bool goes_on = !s->stop;
    pthread_mutex_unlock(&s->lock);
    return goes_on;
}

static void *scrub(void *arg)
{
    struct sl_scrubber *s = arg;
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE); /* of this thread alone */
    for (bool goes_on = true; goes_on && wait_for_look(s);) {
        uint64_t cpu_ns = sl_clock_thread_ns();
        /* What the look costs is part of the share, but for files that changed, which can't wait. */
        goes_on = look(s) && go_round(s, sl_clock_ns() - LOOK_MS * 1000000ull, cpu_ns);
        atomic_store(&s->cpu_ns, sl_clock_thread_ns());
    }
    return NULL;
}

/* ---- life ---- */

static sl_status take_memory(struct sl_scrubber *s)
{
    s->scrubbed = calloc(s->files->n + 1, sizeof *s->scrubbed);
    for (uint32_t i = 0; s->scrubbed && i < s->files->n; i++) {
        const struct sl_weights_file *f = &s->files->files[i];
        struct scrubbed *x = &s->scrubbed[i];
        x->n_blocks = sl_blocks_of(f->file->bytes);
        s->n_blocks += x->n_blocks;
        x->good_ns = calloc(x->n_blocks + 1, sizeof *x->good_ns);
        if (!x->good_ns)
            return SL_E_NOMEM;
        for (uint64_t b = 0; b < x->n_blocks; b++)
            x->good_ns[b] = f->opened_ns;
        x->known = f->known;
    }
    return s->scrubbed ? SL_OK : SL_E_NOMEM;
}

static void release(struct sl_scrubber *s)
{
    for (uint32_t i = 0; s->scrubbed && i < s->files->n; i++)
        free(s->scrubbed[i].good_ns);
    free(s->scrubbed);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

sl_status sl_scrubber_start(struct sl_scrubber **scrubber, const struct sl_weights *weights,
                            const struct sl_scrub_config *config, struct sl_err *err)
{
    struct sl_scrubber *s = calloc(1, sizeof *s);
    *scrubber = NULL;
    if (!s)
        return sl_fail(err, SL_E_NOMEM, "no memory to scrub the weights");
    s->files = weights->private_maps;
    s->config = *config;
    s->look_ns = s->files->n ? s->files->files[0].opened_ns : 0;
    pthread_mutex_init(&s->lock, NULL);
    sl_clock_cond_init(&s->wake);
    bool ready = take_memory(s) == SL_OK;
    if (!ready || s->files->n == 0 || pthread_create(&s->thread, NULL, scrub, s) != 0) {
        bool nothing = ready && s->files->n == 0;
        release(s);
        return nothing ? SL_OK : sl_fail(err, SL_E_NOMEM, "no thread to scrub the weights");
    }
    for (uint32_t i = 0; i < s->files->n; i++)
        if (s->files->files[i].mapping)
            sl_mapping_guard(s->files->files[i].mapping);
    *scrubber = s;
    return SL_OK;
}

void sl_scrubber_stop(struct sl_scrubber *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    release(s);
}

const struct sl_spoiled *sl_scrubber_found(const struct sl_scrubber *s)
{
    return s && atomic_load(&s->found) ? &s->spoiled : NULL;
}

void sl_scrubber_account(const struct sl_scrubber *s, uint64_t *cpu_ns, uint64_t *bytes)
{
    *cpu_ns = atomic_load(&s->cpu_ns);
    *bytes = atomic_load(&s->bytes);
}
