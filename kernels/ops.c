/* Which table this machine runs: chosen once at start from the processor's features, never per
 * call.
 *
 * The order is best first and ends with ref, so a mask (SLUICE_CPU) only shortens the list from its
 * front. sl_expf lives here because it belongs to no instruction set. */
#include "kernels/ops.h"
#include "base/cpu.h"
#include "kernels/cpu/tables.h"
#include "kernels/exp.h"

static const struct sl_ops *const tables[] = {&sl_ops_avx512, &sl_ops_avx2, &sl_ops_ref};
enum { N_TABLES = sizeof tables / sizeof *tables };

static uint32_t first_table(uint32_t features)
{
    if (features & SL_CPU_AVX512)
        return 0;
    return features & SL_CPU_AVX2 ? 1 : 2;
}

sl_status sl_ops_select(const struct sl_ops **ops, struct sl_err *err)
{
    uint32_t features;
    SL_TRY(sl_cpu_features(&features, err));
    *ops = tables[first_table(features)];
    return SL_OK;
}

const struct sl_ops *const *sl_ops_available(uint32_t *n)
{
    uint32_t first = first_table(sl_cpu_detect());
    *n = N_TABLES - first;
    return tables + first;
}

float sl_expf(float x)
{
    return sl_exp_scalar(x);
}
