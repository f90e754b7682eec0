/* gpu-probe [--write FILE] [--compare FILE]: every primitive of the seam on drawn operands, by the twin or, with SLUICE_GPU
 * (tests/gpu/by_driver.h), by a driver; held to plain C (model.c), a line a primitive, and to what a file says that was written
 * before. A GPU's file is golden: on machines without one the twin is compared with it.
 *
 * A line of the file is a case: `NAME number words`, the words in hex as the lanes have them, or where they are many a hash.
 * Two NaNs are equal whatever their payload. Ends with 1 when anything differs, with 2 when it cannot begin. */
#include "tests/gpu/probe/probe.h"
#include "kernels/cuda/images.h"
#include "tests/gpu/by_driver.h"
#include "tests/gpu/probe/images.h"
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORDS_MOST = 1024, LINE_MOST = 64 + WORDS_MOST * 8 };

static bool is_nan(uint32_t word)
{
    return (word & 0x7FFFFFFFu) > 0x7F800000u;
}

static bool same(enum probe_op op, uint32_t a, uint32_t b)
{
    return a == b || (op < PROBE_ROUND && is_nan(a) && is_nan(b));
}

/* ---- files ---- */

static void write_case(char line[LINE_MOST], enum probe_op op, uint32_t number, const uint32_t *out)
{
    const struct probe_shape *s = &probe_shapes[op];
    const uint32_t words = s->n_out * 32;
    int n = snprintf(line, LINE_MOST, "%s %u ", s->name, number);
    if (words > WORDS_MOST) {
        uint64_t hash = 0xCBF29CE484222325u; /* FNV-1a, by words */
        for (uint32_t i = 0; i < words; i++)
            hash = (hash ^ out[i]) * 0x100000001B3u;
        snprintf(line + n, (size_t)(LINE_MOST - n), "hash:%016llx\n", (unsigned long long)hash);
        return;
    }
    for (uint32_t i = 0; i < words; i++)
        n += snprintf(line + n, (size_t)(LINE_MOST - n), "%08x",
                      op < PROBE_ROUND && is_nan(out[i]) ? 0x7FFFFFFFu : out[i]);
    snprintf(line + n, (size_t)(LINE_MOST - n), "\n");
}

static FILE *open_or_end(const char *path, const char *mode)
{
    FILE *file = path ? fopen(path, mode) : NULL;
    if (path && !file) {
        fprintf(stderr, "gpu-probe: cannot open %s: %s\n", path, strerror(errno));
        exit(2);
    }
    return file;
}

/* Cases of the primitive whose line in the file is another; those that it lacks (an architecture's own) count as `missing`. */
static uint32_t compare_file(FILE *file, enum probe_op op, const uint32_t *out, uint32_t *missing)
{
    const struct probe_shape *s = &probe_shapes[op];
    static char want[LINE_MOST], got[LINE_MOST];
    uint32_t wrong = 0, seen = 0;
    size_t name = strlen(s->name);
    rewind(file);
    while (fgets(got, sizeof got, file)) {
        if (strncmp(got, s->name, name) != 0 || got[name] != ' ')
            continue;
        uint32_t number = (uint32_t)strtoul(got + name, NULL, 10);
        seen++;
        if (number >= s->cases) {
            wrong++;
            continue;
        }
        write_case(want, op, number, out + (size_t)number * s->n_out * 32);
        wrong += strcmp(want, got) != 0;
    }
    *missing += seen < s->cases ? s->cases - seen : 0;
    return wrong;
}

/* ---- a primitive ---- */

static void run(enum probe_op op, const uint32_t *in, uint32_t *out)
{
    const struct probe_shape *s = &probe_shapes[op];
    const struct probe_params p = {in, out, op, s->n_in, s->n_out, s->cases};
    if (op >= PROBE_WGMMA_0)
        gpu_launch(&gpu_probe_wg, &p, s->cases, PROBE_SHARED, op);
    else
        gpu_launch(&gpu_probe, &p, 1 + s->cases / 8, PROBE_SHARED, op);
}

/* Words that differ from the model's; the first one is told. */
static uint32_t compare_model(enum probe_op op, const uint32_t *in, const uint32_t *out)
{
    const struct probe_shape *s = &probe_shapes[op];
    const uint32_t words = s->n_out * 32;
    uint32_t *want = malloc(words * 4), wrong = 0;
    if (!want)
        abort();
    for (uint32_t number = 0; number < s->cases; number++) {
        memset(want, 0xA5, words * 4);
        probe_model(op, in + (size_t)number * s->n_in * 32, want);
        for (uint32_t i = 0; i < words; i++) {
            uint32_t got = out[(size_t)number * words + i];
            if (same(op, want[i], got))
                continue;
            if (wrong++ == 0)
                printf("%s: case %u, row %u, lane %u: %08x, and plain C has %08x (operands %08x ...)\n",
                       s->name, number, i / 32, i % 32, got, want[i],
                       in[(size_t)number * s->n_in * 32 + i % 32]);
        }
    }
    free(want);
    return wrong;
}

static bool probe(enum probe_op op, FILE *to, FILE *golden)
{
    const struct probe_shape *s = &probe_shapes[op];
    static char line[LINE_MOST];
    uint32_t *in = gpu_alloc((size_t)s->cases * s->n_in * 128),
             *out = gpu_alloc((size_t)s->cases * s->n_out * 128);
    const struct sl_gpu *gpu = by_driver_gpu();
    if (op >= PROBE_WGMMA_0 && gpu && gpu->capability != 90) {
        printf("%s: left out: %s has none, it is of compute capability %u.%u\n", s->name, gpu->name,
               gpu->capability / 10, gpu->capability % 10);
        gpu_free_all();
        return true;
    }
    probe_draw(op, in);
    run(op, in, out);
    struct gpu_report report = gpu_take_report();
    uint32_t wrong = compare_model(op, in, out), other = 0, missing = 0;
    if (golden)
        other = compare_file(golden, op, out, &missing);
    for (uint32_t i = 0; to && i < s->cases; i++) {
        write_case(line, op, i, out + (size_t)i * s->n_out * 32);
        fputs(line, to);
    }
    printf("%s: %u words, %u differ from plain C", s->name, s->cases * s->n_out * 32, wrong);
    if (golden)
        printf("; %u cases differ from the file, %u are not in it", other, missing);
    printf("%s%s\n", gpu_findings(&report) ? "; found: " : "", report.first);
    gpu_free_all();
    return wrong + other == 0 && gpu_findings(&report) == 0;
}

int main(int argc, char **argv)
{
    const char *to = NULL, *golden = NULL;
    for (int i = 1; i + 1 < argc; i += 2)
        if (strcmp(argv[i], "--write") == 0)
            to = argv[i + 1];
        else if (strcmp(argv[i], "--compare") == 0)
            golden = argv[i + 1];
        else
            argc = 0;
    if (argc % 2 == 0) {
        fputs("usage: gpu-probe [--write FILE] [--compare FILE]; SLUICE_GPU=twin|cuda|cuda:N\n", stderr);
        return 2;
    }
    by_driver_images(probe_images, probe_n_images);
    FILE *out = open_or_end(to, "w"), *file = open_or_end(golden, "r");
    uint32_t bad = 0;
    for (int op = 0; op < PROBE_OPS; op++)
        bad += !probe((enum probe_op)op, out, file);
    printf("%d primitives, %u not as they should be\n", PROBE_OPS, bad);
    bool failed = (out && fclose(out) != 0);
    if (file)
        fclose(file);
    return bad > 0 || failed;
}
