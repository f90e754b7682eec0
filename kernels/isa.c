/* Which table this machine runs: chosen once at start from the processor's features, never per
 * call.
 *
 * A table joins a float half and an integer half; they are joined here, once, on first use. The
 * order is best first and ends with ref, so a mask (SLUICE_CPU) only shortens the list from its
 * front. A numerics profile other than f32 is the same table with other float products. sl_expf lives here because it belongs to no instruction set. */
#include "kernels/isa.h"
#include "base/cpu.h"
#include "kernels/cpu/tables.h"
#include "kernels/exp.h"
#include "kernels/ref/ref.h"
#include <pthread.h>

struct table_source {
    const char *name;
    uint32_t needs; /* all of these features */
    const struct sl_ops *floats, *integers, *attention8;
};
static const struct table_source sources[] = {
    {"amx", SL_CPU_AVX512 | SL_CPU_VNNI | SL_CPU_AMX, &sl_ops_avx512, &sl_int_amx, &sl_attend8_avx512vnni},
    {"avx512-vnni", SL_CPU_AVX512 | SL_CPU_VNNI, &sl_ops_avx512, &sl_int_avx512vnni, &sl_attend8_avx512vnni},
    {"avx512", SL_CPU_AVX512, &sl_ops_avx512, &sl_int_avx2, &sl_attend8_avx2},
    {"avx2-vnni", SL_CPU_AVX2 | SL_CPU_AVXVNNI, &sl_ops_avx2, &sl_int_avxvnni, &sl_attend8_avxvnni},
    {"avx2", SL_CPU_AVX2, &sl_ops_avx2, &sl_int_avx2, &sl_attend8_avx2},
    {"ref", 0, &sl_ops_ref, &sl_ops_ref, &sl_ops_ref},
};
enum { N_TABLES = sizeof sources / sizeof *sources };

static struct sl_ops tables[SL_PROFILES][N_TABLES];
static const struct sl_ops *list[SL_PROFILES][N_TABLES]; /* NULL: this row has no table of the profile */

/* What profile bf16dot puts in the place of gemm, gemm_swiglu and attend; NULL: nothing does on these floats. */
static const struct sl_ops *bf16dot_products(const struct table_source *s)
{
    if (s->floats == &sl_ops_ref)
        return &sl_bf16dot_ref;
    return s->floats == &sl_ops_avx512 ? &sl_bf16dot_avx512 : NULL;
}

static uint32_t needs_of(const struct table_source *s, enum sl_profile profile)
{
    bool by_instruction = profile == SL_PROFILE_BF16DOT && s->floats != &sl_ops_ref;
    return by_instruction ? s->needs | SL_CPU_BF16 : s->needs;
}

/* scratch_bytes of the two halves: one table needs whichever is larger. A function has no closure, so every table
 * answers with the largest of all; they are of one size class, and it is asked for once a thread. */
static size_t joined_scratch_bytes(uint32_t k_max)
{
    size_t most = sl_bf16dot_avx512.scratch_bytes(k_max);
    for (size_t i = 0; i < N_TABLES; i++) {
        size_t a = sources[i].floats->scratch_bytes(k_max), b = sources[i].integers->scratch_bytes(k_max);
        size_t c = sources[i].attention8->scratch_bytes(k_max);
        most = a > most ? a : most;
        most = b > most ? b : most;
        most = c > most ? c : most;
    }
    return most;
}

static struct sl_ops join_halves(const struct table_source *s)
{
    struct sl_ops t = *s->floats;
    t.name = s->name;
    t.quantise = s->integers->quantise;
    t.rotate = s->integers->rotate;
    t.gemm8 = s->integers->gemm8;
    t.gemm8_swiglu = s->integers->gemm8_swiglu;
    t.attend8 = s->attention8->attend8;
    t.attend_merge = s->attention8->attend_merge;
    t.scratch_bytes = joined_scratch_bytes;
    return t;
}

static void join_tables(void)
{
    for (size_t i = 0; i < N_TABLES; i++) {
        const struct sl_ops *products = bf16dot_products(&sources[i]);
        struct sl_ops t = join_halves(&sources[i]);
        tables[SL_PROFILE_F32][i] = t;
        list[SL_PROFILE_F32][i] = &tables[SL_PROFILE_F32][i];
        if (!products)
            continue;
        t.gemm = products->gemm;
        t.gemm_swiglu = products->gemm_swiglu;
        t.attend = products->attend;
        tables[SL_PROFILE_BF16DOT][i] = t;
        list[SL_PROFILE_BF16DOT][i] = &tables[SL_PROFILE_BF16DOT][i];
    }
    list[SL_PROFILE_F32][N_TABLES - 1] = &sl_ops_ref;
}

/* Tables that need a feature that is missing are left out: *usable gets the others, best first. */
static uint32_t filter(enum sl_profile profile, uint32_t features, const struct sl_ops **usable)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, join_tables);
    uint32_t n = 0;
    for (size_t i = 0; i < N_TABLES; i++) {
        uint32_t needs = needs_of(&sources[i], profile);
        if (list[profile][i] && (features & needs) == needs)
            usable[n++] = list[profile][i];
    }
    return n;
}

/* ref can run every profile, but a machine offers only what its processor does: another that does it in software would
 * hold up the pipeline. */
static bool offers(enum sl_profile profile, uint32_t features)
{
    return profile == SL_PROFILE_F32 || (features & SL_CPU_BF16);
}

uint32_t sl_ops_profiles(void)
{
    uint32_t features, set = 0;
    if (sl_cpu_features(&features, NULL) != SL_OK)
        features = 0; /* whoever selects a table is told why */
    for (unsigned i = 0; i < SL_PROFILES; i++)
        set |= offers((enum sl_profile)i, features) ? 1u << i : 0;
    return set;
}

sl_status sl_ops_select(const struct sl_ops **ops, struct sl_err *err)
{
    return sl_ops_select_profile(ops, SL_PROFILE_F32, err);
}

sl_status sl_ops_select_profile(const struct sl_ops **ops, enum sl_profile profile, struct sl_err *err)
{
    const struct sl_ops *usable[N_TABLES];
    uint32_t features;
    SL_TRY(sl_cpu_features(&features, err));
    if (!offers(profile, features))
        return sl_fail(
            err, SL_E_CONFIG,
            "this machine cannot run the numerics profile %s: it needs a processor with AVX512_BF16 "
            "(and SLUICE_CPU unset); use --numerics f32",
            sl_profile_name(profile));
    filter(profile, features, usable);
    *ops = usable[0];
    return SL_OK;
}

const struct sl_ops *const *sl_ops_available(uint32_t *n)
{
    return sl_ops_available_profile(SL_PROFILE_F32, n);
}

const struct sl_ops *const *sl_ops_available_profile(enum sl_profile profile, uint32_t *n)
{
    static const struct sl_ops *available[SL_PROFILES][N_TABLES]; /* always filled with the same values */
    *n = filter(profile, sl_cpu_detect(), available[profile]);
    return available[profile];
}

float sl_expf(float x)
{
    return sl_exp_scalar(x);
}
