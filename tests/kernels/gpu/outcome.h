/* What comes of a kernel on the twin, for tests: how many of its outputs are not those of kernels/ref, and what the twin says. Floats
 * are compared by their bits, two NaNs being equal whatever their payload.
 *
 * A test runs cases and wants nothing wrong with them (expect_sound); a mutant's wants something (found.h). A sweep draws cases:
 * a few, or with SLUICE_SEEDS until a thousand times so many outputs have been compared, of every number of rows up to 300 at the 10,000
 * of ./dev full, and says how many they were. */
#ifndef SL_TESTS_KERNELS_GPU_OUTCOME_H
#define SL_TESTS_KERNELS_GPU_OUTCOME_H

#include "kernels/gpu/host.h"
#include "tests/kernels/same.h"
#include <stdarg.h>
#include <stdlib.h>

struct gpu_outcome {
    uint64_t outputs, differ;
    struct gpu_report report; /* of all launches */
    uint64_t conflicts;       /* wavefronts too many, of kernels that have none */
};

/* ---- on the device ---- */

static inline void *on_device(const void *from, size_t bytes)
{
    return memcpy(gpu_alloc(bytes), from, bytes);
}

static inline void *unwritten(size_t bytes)
{
    void *at = gpu_alloc(bytes);
    gpu_poison(at, bytes);
    return at;
}

enum conflicts { CONFLICTS_COUNT, CONFLICTS_MAY_BE };
static inline void run_kernel(struct gpu_outcome *o, const struct gpu_kernel *kernel, const void *params,
                              uint32_t blocks, size_t shared, uint64_t seed, enum conflicts conflicts)
{
    gpu_launch(kernel, params, blocks, shared, seed);
    struct gpu_report r = gpu_take_report();
    for (uint32_t i = 0; i < GPU_FINDINGS; i++)
        o->report.found[i] += r.found[i];
    if (!o->report.first[0])
        memcpy(o->report.first, r.first, sizeof r.first);
    if (conflicts == CONFLICTS_COUNT)
        o->conflicts += r.wavefronts - r.wavefronts_ideal;
}

/* ---- compared ---- */

static inline void compare_floats(struct gpu_outcome *o, const float *want, const float *got, size_t n)
{
    o->outputs += n;
    for (size_t i = 0; i < n; i++)
        o->differ += !same_float(want[i], got[i]);
}

/* n things of so many bytes each. */
static inline void compare_things(struct gpu_outcome *o, const void *want, const void *got, size_t n,
                                  size_t bytes)
{
    o->outputs += n;
    for (size_t i = 0; i < n; i++)
        o->differ += memcmp((const uint8_t *)want + i * bytes, (const uint8_t *)got + i * bytes, bytes) != 0;
}

/* n bytes of memory that is nobody's to write: no outputs. */
static inline void expect_unwritten(struct gpu_outcome *o, const void *at, size_t n)
{
    for (size_t i = 0; i < n; i++)
        o->differ += ((const uint8_t *)at)[i] != 0xA5;
}

/* What is wrong, in a word; NULL: nothing. */
static inline const char *wrong_by(const struct gpu_outcome *o)
{
    for (int kind = 0; kind < GPU_FINDINGS; kind++)
        if (o->report.found[kind] > 0)
            return gpu_finding_name((enum gpu_finding)kind);
    return o->conflicts > 0 ? "conflicts of banks" : o->differ > 0 ? "bits" : NULL;
}

/* The format says which case it was. */
__attribute__((format(printf, 2, 3))) static inline void expect_sound(const struct gpu_outcome *o,
                                                                      const char *format, ...)
{
    char which[240];
    va_list arguments;
    if (!wrong_by(o))
        return;
    va_start(arguments, format);
    vsnprintf(which, sizeof which, format, arguments);
    va_end(arguments);
    sl_test_fail(
        __FILE__, __LINE__, "%s: %llu of %llu outputs differ, %llu findings, %llu wavefronts too many: %s",
        which, (unsigned long long)o->differ, (unsigned long long)o->outputs,
        (unsigned long long)gpu_findings(&o->report), (unsigned long long)o->conflicts, o->report.first);
}

/* ---- many ---- */

enum { SWEEP_ROWS = 300 };
struct sweep {
    const char *kernel;
    uint32_t few, least; /* cases where a sweep is not asked for, and where it is */
    bool large;          /* it is: with rows and contexts as they may be */
    uint64_t wanted;
    uint32_t n_cases;
    uint64_t outputs, differ;
};

static inline struct sweep sweep_of(const char *kernel, uint32_t few)
{
    const char *text = getenv("SLUICE_SEEDS");
    const uint64_t seeds = text ? strtoull(text, NULL, 10) : 0;
    return (struct sweep){.kernel = kernel,
                          .few = few,
                          .least = (uint32_t)(seeds * SWEEP_ROWS / 10000),
                          .large = text,
                          .wanted = seeds * 1000};
}

/* Rows of the next case; few_rows at most where there is no sweep. */
static inline uint32_t sweep_rows(const struct sweep *s, uint32_t few_rows)
{
    return 1 + s->n_cases * 7 % (s->large ? SWEEP_ROWS : few_rows);
}

/* How many outputs there were, if they were many. */
static inline void sweep_says(const struct sweep *s)
{
    if (s->large)
        printf("figure: %s on the twin: %llu of %llu outputs differ from kernels/ref (%u cases)\n", s->kernel,
               (unsigned long long)s->differ, (unsigned long long)s->outputs, s->n_cases);
}

/* Whether there is another case to draw; if not, it says so. */
static inline bool sweep_goes_on(const struct sweep *s)
{
    const bool more = s->large ? s->outputs < s->wanted || s->n_cases < s->least : s->n_cases < s->few;
    if (!more)
        sweep_says(s);
    return more;
}

static inline void sweep_count(struct sweep *s, const struct gpu_outcome *o)
{
    s->n_cases++;
    s->outputs += o->outputs;
    s->differ += o->differ;
}

#endif
