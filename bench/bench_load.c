/* Loading measured (bench_load.h). The ways take turns, so that neighbours of a shared machine meet all of them, and the first turn,
 * which brings the files into the page cache, does not count. What is read is the weights' files, whole. */
#include "bench/bench_load.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "bench/samples.h"
#include "kernels/team.h"
#include "model/pack/pack_cache.h"
#include "model/pack/scrub.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECE = 1 << 20, FILES_MAX = SL_MAX_LAYERS + 2, ROUNDS_MAX = 101 };
enum way { READ, TOUCH, VERIFY, COPY, WAYS };
static const char *const way_names[WAYS] = {"read(2) into a buffer", "every line of a mapping touched",
                                            "verified while loading", "copied and verified"};
static const char *const way_keys[WAYS] = {"read", "touch", "verify", "copy"};

struct load_bench {
    const struct sl_bench_load *options;
    struct sl_pack *pack;
    struct sl_team *team;
    uint32_t n_threads, n_files;
    int fds[FILES_MAX];
    uint64_t bytes, n_pieces, sizes[FILES_MAX], first[FILES_MAX + 1];
    const uint8_t *maps[FILES_MAX];
    uint8_t *buffers; /* [n_threads][PIECE] */
    _Atomic uint64_t sum;
    double gb_per_s[WAYS][ROUNDS_MAX];
};

/* ---- the files ---- */

static sl_status open_file(struct load_bench *b, const char *name, struct sl_err *err)
{
    char path[4096];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", sl_pack_path(b->pack), name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0)
        return sl_fail(err, SL_E_IO, "can't open %.200s", path);
    b->fds[b->n_files] = fd;
    b->sizes[b->n_files] = (uint64_t)st.st_size;
    b->bytes += (uint64_t)st.st_size;
    b->first[b->n_files + 1] = b->first[b->n_files] + ((uint64_t)st.st_size + PIECE - 1) / PIECE;
    b->n_pieces = b->first[++b->n_files];
    return SL_OK;
}

static sl_status open_files(struct load_bench *b, struct sl_err *err)
{
    char name[64];
    SL_TRY(open_file(b, "embed.safetensors", err));
    for (uint32_t i = 0; i < sl_pack_shape(b->pack)->n_layers; i++) {
        snprintf(name, sizeof name, "layer-%04u.safetensors", i);
        SL_TRY(open_file(b, name, err));
    }
    return open_file(b, "head.safetensors", err);
}

static uint32_t file_of(const struct load_bench *b, uint64_t piece)
{
    uint32_t file = 0;
    while (piece >= b->first[file + 1])
        file++;
    return file;
}

static size_t piece_of(const struct load_bench *b, uint64_t piece, uint32_t *file, uint64_t *at)
{
    *file = file_of(b, piece);
    *at = (piece - b->first[*file]) * PIECE;
    uint64_t left = b->sizes[*file] - *at;
    return left < PIECE ? (size_t)left : PIECE;
}

/* ---- the ways ---- */

static void read_pieces(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    struct load_bench *b = arg;
    (void)n_members, (void)scratch;
    for (uint64_t piece; (piece = sl_team_next(b->team)) < b->n_pieces;) {
        uint32_t file;
        uint64_t at;
        size_t bytes = piece_of(b, piece, &file, &at);
        if (pread(b->fds[file], b->buffers + (size_t)member * PIECE, bytes, (off_t)at) < 0)
            return;
    }
}

static void touch_pieces(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    struct load_bench *b = arg;
    uint64_t sum = 0;
    (void)member, (void)n_members, (void)scratch;
    for (uint64_t piece; (piece = sl_team_next(b->team)) < b->n_pieces;) {
        uint32_t file;
        uint64_t at;
        size_t bytes = piece_of(b, piece, &file, &at);
        for (size_t i = 0; i < bytes; i += 64)
            sum += b->maps[file][at + i];
    }
    b->sum += sum; /* so that it is read at all */
}

static void touch(struct load_bench *b)
{
    for (uint32_t i = 0; i < b->n_files; i++)
        b->maps[i] = mmap(NULL, b->sizes[i], PROT_READ, MAP_SHARED, b->fds[i], 0);
    sl_team_run(b->team, touch_pieces, b);
    for (uint32_t i = 0; i < b->n_files; i++)
        munmap((void *)(uintptr_t)b->maps[i], b->sizes[i]);
}

static sl_status load(struct load_bench *b, bool copy, struct sl_err *err)
{
    struct sl_weights weights;
    SL_TRY(sl_weights_open(&weights, b->pack, 0, sl_pack_shape(b->pack)->n_layers, true, true,
                           &(struct sl_loading){.copy = copy, .threads = b->n_threads}, err));
    sl_weights_close(&weights);
    return SL_OK;
}

static sl_status go(struct load_bench *b, enum way way, struct sl_err *err)
{
    if (way == READ)
        sl_team_run(b->team, read_pieces, b);
    else if (way == TOUCH)
        touch(b);
    else
        return load(b, way == COPY, err);
    return SL_OK;
}

static sl_status measure(struct load_bench *b, struct sl_err *err)
{
    SL_TRY(go(b, READ, err));
    for (uint32_t round = 0; round < b->options->rounds; round++)
        for (int way = 0; way < WAYS; way++) {
            uint64_t began = sl_clock_ns();
            SL_TRY(go(b, (enum way)way, err));
            b->gb_per_s[way][round] = (double)b->bytes / (double)(sl_clock_ns() - began);
        }
    return SL_OK;
}

/* ---- scrubbing ---- */

static void on_spoiled(void *user, const struct sl_spoiled *spoiled)
{
    (void)user;
    fprintf(stderr, "sluice bench load: %s\n", spoiled->sentence);
}

static sl_status scrub(struct load_bench *b, double *share, double *gb_per_s, struct sl_err *err)
{
    struct sl_weights weights;
    struct sl_scrubber *scrubber;
    struct sl_loading how = {.threads = b->n_threads};
    uint64_t cpu_ns, bytes;
    SL_TRY(sl_weights_open(&weights, b->pack, 0, sl_pack_shape(b->pack)->n_layers, true, true, &how, err));
    uint64_t began = sl_clock_ns();
    sl_status status =
        sl_scrubber_start(&scrubber, &weights, &(struct sl_scrub_config){.on_spoiled = on_spoiled}, err);
    if (status == SL_OK) {
        sleep(b->options->seconds);
        sl_scrubber_account(scrubber, &cpu_ns, &bytes);
        *share = (double)cpu_ns / (double)(sl_clock_ns() - began);
        *gb_per_s = (double)bytes / (double)(sl_clock_ns() - began);
        sl_scrubber_stop(scrubber);
    }
    sl_weights_close(&weights);
    return status;
}

/* ---- the whole ---- */

/* Of the faster of the two plain readings of the same round. */
static double ratio(const struct load_bench *b, enum way way)
{
    double ratios[ROUNDS_MAX];
    for (uint32_t i = 0; i < b->options->rounds; i++) {
        double read = b->gb_per_s[READ][i], touch = b->gb_per_s[TOUCH][i];
        ratios[i] = b->gb_per_s[way][i] / (read > touch ? read : touch);
    }
    return sl_median(ratios, b->options->rounds);
}

static void print(struct load_bench *b, double share, double scrub_gb_per_s)
{
    double median[WAYS];
    for (int way = 0; way < WAYS; way++)
        median[way] = sl_median(b->gb_per_s[way], b->options->rounds);
    if (b->options->json) {
        printf("{\"bytes\": %llu, \"threads\": %u", (unsigned long long)b->bytes, b->n_threads);
        for (int way = 0; way < WAYS; way++)
            printf(", \"%s_gb_per_s\": %.3f", way_keys[way], median[way]);
        printf(", \"verify_ratio\": %.3f", ratio(b, VERIFY));
        printf(", \"scrub_share\": %.5f, \"scrub_gb_per_s\": %.4f}\n", share, scrub_gb_per_s);
        return;
    }
    printf("%.2f GB of weights in the page cache, %u threads, medians of %u\n", (double)b->bytes * 1e-9,
           b->n_threads, b->options->rounds);
    for (int way = 0; way < WAYS; way++)
        printf("  %-32s %6.2f GB/s %5.1f %% of the faster reading\n", way_names[way], median[way],
               100 * ratio(b, (enum way)way));
    if (b->options->seconds)
        printf("  %-32s %6.2f %% of a core, %.3f GB/s\n", "scrubbing", 100 * share, scrub_gb_per_s);
}

static sl_status run(struct load_bench *b, struct sl_err *err)
{
    double share = 0, gb_per_s = 0;
    SL_TRY(sl_pack_open_any(&b->pack, b->options->model, err));
    SL_TRY(open_files(b, err));
    b->n_threads = sl_cpu_threads(b->options->n_threads, 1);
    SL_TRY(sl_team_create(&b->team, b->n_threads, 0, err));
    b->buffers = aligned_alloc(4096, (size_t)b->n_threads * PIECE);
    if (!b->buffers)
        return sl_fail(err, SL_E_NOMEM, "out of memory");
    memset(b->buffers, 1, (size_t)b->n_threads * PIECE);
    SL_TRY(measure(b, err));
    if (b->options->seconds)
        SL_TRY(scrub(b, &share, &gb_per_s, err));
    print(b, share, gb_per_s);
    return SL_OK;
}

sl_status sl_bench_load(const struct sl_bench_load *options, struct sl_err *err)
{
    struct load_bench *b = calloc(1, sizeof *b);
    if (!options->model || !b) {
        free(b);
        return options->model ? sl_fail(err, SL_E_NOMEM, "out of memory")
                              : sl_fail(err, SL_E_USAGE, "say --model PATH");
    }
    b->options = options;
    sl_status status = run(b, err);
    for (uint32_t i = 0; i < b->n_files; i++)
        close(b->fds[i]);
    sl_team_destroy(b->team);
    sl_pack_close(b->pack);
    free(b->buffers);
    free(b);
    return status;
}
