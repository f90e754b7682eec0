/* Which table this machine runs: chosen once at start from the processor's features, never per
 * call.
 *
 * A table joins a float half and an integer half; they are joined here, once, on first use. The
 * order is best first and ends with ref, so a mask (SLUICE_CPU) only shortens the list from its
 * front. sl_expf lives here because it belongs to no instruction set. */
#include "kernels/ops.h"
#include "base/cpu.h"
#include "kernels/cpu/tables.h"
#include "kernels/exp.h"
#include <pthread.h>

struct source {
    const char *name;
    uint32_t needs; /* all of these features */
    const struct sl_ops *floats, *integers;
};
static const struct source sources[] = {
    {"avx512", SL_CPU_AVX512, &sl_ops_avx512, &sl_ops_ref},
    {"avx2", SL_CPU_AVX2, &sl_ops_avx2, &sl_ops_ref},
    {"ref", 0, &sl_ops_ref, &sl_ops_ref},
};
enum { N_TABLES = sizeof sources / sizeof *sources };

static struct sl_ops tables[N_TABLES];
static const struct sl_ops *list[N_TABLES];

/* scratch_bytes of the two halves: one table needs whichever is larger. A function has no closure, so every table
 * answers with the largest of all; they are of one size class, and it is asked for once a thread. */
static size_t joined_scratch_bytes(uint32_t k_max)
{
    size_t most = 0;
    for (size_t i = 0; i < N_TABLES; i++) {
        size_t a = sources[i].floats->scratch_bytes(k_max), b = sources[i].integers->scratch_bytes(k_max);
        most = a > most ? a : most;
        most = b > most ? b : most;
    }
    return most;
}

static void join_tables(void)
{
    for (size_t i = 0; i < N_TABLES; i++) {
        const struct sl_ops *integers = sources[i].integers;
        tables[i] = *sources[i].floats;
        tables[i].name = sources[i].name;
        tables[i].quantise = integers->quantise;
        tables[i].rotate = integers->rotate;
        tables[i].gemm8 = integers->gemm8;
        tables[i].gemm8_swiglu = integers->gemm8_swiglu;
        tables[i].scratch_bytes = joined_scratch_bytes;
        list[i] = &tables[i];
    }
    list[N_TABLES - 1] = &sl_ops_ref;
}

/* Tables that need a feature that is missing are left out: *usable gets the others, best first. */
static uint32_t filter(uint32_t features, const struct sl_ops **usable)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, join_tables);
    uint32_t n = 0;
    for (size_t i = 0; i < N_TABLES; i++)
        if ((features & sources[i].needs) == sources[i].needs)
            usable[n++] = list[i];
    return n;
}

sl_status sl_ops_select(const struct sl_ops **ops, struct sl_err *err)
{
    const struct sl_ops *usable[N_TABLES];
    uint32_t features;
    SL_TRY(sl_cpu_features(&features, err));
    filter(features, usable);
    *ops = usable[0];
    return SL_OK;
}

const struct sl_ops *const *sl_ops_available(uint32_t *n)
{
    static const struct sl_ops *available[N_TABLES]; /* always filled with the same values */
    *n = filter(sl_cpu_detect(), available);
    return available;
}

float sl_expf(float x)
{
    return sl_exp_scalar(x);
}
