/* The thresholds of tune.h: held in atomics that the kernels read once a product, measured on a product as
 * wide as a task of an expert, and kept in a small text file.
 *
 * The file is named after the processor and the table, so that a home directory shared by unlike machines
 * serves them all. It is untrusted: what was read is parsed, checked, written again in memory and compared
 * with the file byte by byte, so nothing that we did not write ourselves is believed. */
#include "kernels/tune.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/digest.h"
#include "kernels/isa.h"
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    FILE_BYTES = 1024,
    TUNE_N = 256, /* outputs: four groups of a panel */
    TUNE_K = 2048,
    TUNE_ROUNDS = 5, /* the best of so many; the two ways take turns */
    TUNE_NS = 1000000000
};
/* Rows at which the ways are compared: below the first the ways are one, or as good as. */
static const uint32_t candidates[] = {12, 24, 32, 40, 48, 64, 96};
enum { N_CANDIDATES = sizeof candidates / sizeof *candidates, ROWS = 96 };

static _Atomic uint32_t active[SL_DTYPES]; /* threshold + 1; 0: the kernel's own */

void sl_tune_set(const struct sl_tune *tune)
{
    for (int d = 0; d < SL_DTYPES; d++) {
        bool own = !tune || tune->few_rows[d] > SL_TUNE_ROWS_MAX;
        atomic_store_explicit(&active[d], own ? 0 : tune->few_rows[d] + 1, memory_order_relaxed);
    }
}

uint32_t sl_tune_few_rows(enum sl_dtype dtype, uint32_t otherwise)
{
    uint32_t value = atomic_load_explicit(&active[dtype], memory_order_relaxed);
    return value ? value - 1 : otherwise;
}

/* Nanoseconds of one product, by panel or in registers. */
static uint64_t time_one(const struct sl_ops *ops, const struct sl_gemm8 *g, void *scratch, bool few)
{
    struct sl_tune tune;
    for (int d = 0; d < SL_DTYPES; d++)
        tune.few_rows[d] = few ? SL_TUNE_ROWS_MAX : 0;
    sl_tune_set(&tune);
    uint64_t begin = sl_clock_thread_ns();
    ops->gemm8(g, scratch);
    uint64_t ns = sl_clock_thread_ns() - begin;
    sl_tune_set(NULL);
    return ns;
}

/* The most rows at which decoding in registers is faster. A hundredth is noise, and goes to the panel. */
static uint32_t measure_format(const struct sl_ops *ops, struct sl_gemm8 *g, void *scratch, uint64_t end)
{
    uint32_t few_rows = 0;
    for (size_t i = 0; i < N_CANDIDATES; i++) {
        uint64_t best[2] = {UINT64_MAX, UINT64_MAX};
        g->m = candidates[i];
        for (int round = 0; round < 2 * TUNE_ROUNDS; round++) {
            if (sl_clock_thread_ns() > end)
                return SL_TUNE_DEFAULT;
            uint64_t ns = time_one(ops, g, scratch, round % 2);
            best[round % 2] = ns < best[round % 2] ? ns : best[round % 2];
        }
        if (best[1] < best[0] - best[0] / 100)
            few_rows = candidates[i];
    }
    return few_rows;
}

sl_status sl_tune_measure(struct sl_tune *tune, const struct sl_ops *ops, struct sl_err *err)
{
    size_t weights = sl_panel_bytes(SL_I8, TUNE_N, TUNE_K), stride = sl_rows8_stride(TUNE_K);
    size_t scratch = (ops->scratch_bytes(TUNE_K) + 63) / 64 * 64,
           outputs = (size_t)ROWS * TUNE_N * sizeof(float);
    size_t rows = ROWS * stride, row_words = (size_t)ROWS * 4;
    uint8_t *memory = aligned_alloc(64, weights + scratch + outputs + rows + 2 * row_words);
    if (!memory)
        return sl_fail(err, SL_E_NOMEM,
                       "out of memory while the integer kernels were being tuned; free some");
    memset(memory, 1, weights + scratch + outputs + rows); /* any bits are weights and activations */
    uint8_t *at = memory + weights + scratch;
    struct sl_gemm8 g = {.y = (float *)(void *)at, .y_stride = TUNE_N, .col_end = TUNE_N};
    g.x = (struct sl_rows8){(int8_t *)at + outputs, stride, (float *)(void *)(at + outputs + rows),
                            (int32_t *)(void *)(at + outputs + rows + row_words)};
    memset(at + outputs + rows, 0, 2 * row_words); /* scales 0: the outputs are 0, whatever the weights */
    uint64_t end = sl_clock_thread_ns() + TUNE_NS;
    for (int d = 0; d < SL_DTYPES; d++) {
        bool coded = d > SL_I8;
        g.w = (struct sl_panel){.data = memory, .n = TUNE_N, .k = TUNE_K, .dtype = (enum sl_dtype)d};
        tune->few_rows[d] = coded ? measure_format(ops, &g, memory + weights, end) : SL_TUNE_DEFAULT;
    }
    free(memory);
    return SL_OK;
}

/* The file's whole text. */
static void render(const struct sl_tune *tune, const char *cpu, const struct sl_ops *ops,
                   char text[FILE_BYTES])
{
    int n = snprintf(text, FILE_BYTES, "sluice tune 1\n%s\n%s\n", cpu, ops->name);
    for (int d = SL_I8 + 1; d < SL_DTYPES; d++)
        n += snprintf(text + n, FILE_BYTES - (size_t)n, "%s %" PRIu32 "\n", sl_dtype_name((enum sl_dtype)d),
                      tune->few_rows[d]);
}

static bool parse(struct sl_tune *tune, const char *cpu, const struct sl_ops *ops, const char *text)
{
    char again[FILE_BYTES];
    const char *line = text;
    for (int d = 0; d < SL_DTYPES; d++)
        tune->few_rows[d] = SL_TUNE_DEFAULT;
    for (int skip = 0; skip < 3; skip++) {
        line = strchr(line, '\n');
        if (!line++)
            return false;
    }
    for (int d = SL_I8 + 1; d < SL_DTYPES; d++) {
        char *end;
        const char *number = strchr(line, ' ');
        unsigned long value = number ? strtoul(number, &end, 10) : ULONG_MAX;
        if (value > SL_TUNE_DEFAULT || *end != '\n')
            return false;
        tune->few_rows[d] = (uint32_t)value;
        line = end + 1;
    }
    render(tune, cpu, ops, again);
    return strcmp(text, again) == 0;
}

static bool load(struct sl_tune *tune, const char *cpu, const struct sl_ops *ops, const char *path)
{
    char text[FILE_BYTES];
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    return parse(tune, cpu, ops, text);
}

/* Whole or not at all: another process may read or write it at the same time. */
static bool save(const char *text, const char *path)
{
    char temporary[4096];
    int n = snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid());
    FILE *f = n > 0 && (size_t)n < sizeof temporary ? fopen(temporary, "we") : NULL;
    if (!f)
        return false;
    bool written = fputs(text, f) >= 0;
    written = fclose(f) == 0 && written;
    if (written && rename(temporary, path) == 0)
        return true;
    unlink(temporary);
    return false;
}

sl_status sl_tune_ensure(struct sl_tune *tune, const struct sl_ops *ops, const char *dir, bool *saved,
                         struct sl_err *err)
{
    char cpu[64], path[4000], text[FILE_BYTES];
    sl_cpu_model_name(cpu, sizeof cpu);
    int n = snprintf(path, sizeof path, "%s/tune-%016" PRIx64 "-%s.txt", dir, sl_xxh3(cpu, strlen(cpu)),
                     ops->name);
    if (n < 0 || (size_t)n >= sizeof path)
        return sl_fail(err, SL_E_CONFIG, "the cache directory's path is too long; choose a shorter one");
    *saved = load(tune, cpu, ops, path);
    if (*saved)
        return SL_OK;
    SL_TRY(sl_tune_measure(tune, ops, err));
    render(tune, cpu, ops, text);
    *saved = save(text, path);
    return SL_OK;
}
