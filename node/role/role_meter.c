/* Where a role's time goes and how near it is to what the machine can do, from its stage to
 * /metrics: published by the role's thread after each chunk or step, read by whoever scrapes. */
#include "node/role/role_meter.h"
#include "base/metric.h"
#include "base/text.h"

enum {
    MILLION = 1000000
}; /* ratios are kept as millionths: atomics of doubles are no lock-free thing to rely on */

uint64_t sl_role_meter_publish(struct sl_role_meter *m, struct sl_utilisation *u,
                               const struct sl_stage *stage)
{
    uint64_t at_peak_us = sl_utilisation_look(u, stage), worked_ns = 0;
    uint64_t available_ns = u->seen_run_ns * sl_stage_members(stage);
    for (int p = 0; p < SL_PARTS; p++) {
        atomic_store(&m->part_ns[p], u->seen.part[p].ns);
        worked_ns += u->seen.part[p].ns;
    }
    atomic_store(&m->wait_ns, available_ns > worked_ns ? available_ns - worked_ns : 0);
    atomic_store(&m->mfu_ppm, (uint64_t)(MILLION * sl_utilisation_ratio(u, u->compute_ns)));
    atomic_store(&m->has_mma, u->roofline.mma_ops_per_ns > 0);
    atomic_store(&m->mma_ppm, (uint64_t)(MILLION * sl_utilisation_ratio(u, u->mma_ns)));
    atomic_store(&m->compute_ppm, (uint64_t)(MILLION * sl_utilisation_ratio(u, u->compute_bound_ns)));
    atomic_store(&m->memory_ppm, (uint64_t)(MILLION * sl_utilisation_ratio(u, u->memory_bound_ns)));
    return at_peak_us;
}

void sl_role_meter_pages(struct sl_role_meter *m, const struct sl_sequences *sequences)
{
    atomic_store(&m->pages_used, sequences->n_used);
    atomic_store(&m->sequences, sequences->n_live);
}

static double ratio(const _Atomic uint64_t *ppm)
{
    return (double)atomic_load(ppm) / MILLION;
}

void sl_role_meter_steps_text(struct sl_text *t, const char *role, const struct sl_role_meter *m)
{
    sl_metric_head(
        t, "gauge", "sluice_decode_steps_under_way",
        "Micro-batches on their way through the parts of the decode worker, as its last part counts "
        "them: now, and at most so far.");
    sl_text_add(t,
                "sluice_decode_steps_under_way{role=\"%s\",when=\"now\"} %llu\n"
                "sluice_decode_steps_under_way{role=\"%s\",when=\"most\"} %llu\n",
                role, (unsigned long long)atomic_load(&m->steps_under_way), role,
                (unsigned long long)atomic_load(&m->most_steps_under_way));
}

void sl_role_meter_text(struct sl_text *t, const char *role, const struct sl_role_meter *m)
{
    sl_metric_head(
        t, "counter", "sluice_stage_seconds",
        "Time of all threads of the team, or of a GPU's queue by its events, by part of the work; wait is "
        "the rest of the time in layers and head: imbalance, barriers, serial steps. Of a twin of a GPU it is "
        "a simulation's and no figure.");

    for (int p = 0; p <= SL_PARTS; p++)
        sl_text_add(t, "sluice_stage_seconds_total{role=\"%s\",part=\"%s\"} %.6f\n", role,
                    p < SL_PARTS ? sl_part_name((enum sl_part)p) : "wait",
                    (double)atomic_load(p < SL_PARTS ? &m->part_ns[p] : &m->wait_ns) * 1e-9);
    sl_metric_head(
        t, "gauge", "sluice_stage_mfu_ratio",
        "Time that the operations of about the last ten chunks or steps take at the peaks of "
        "their instructions (measured at the start, same threads; a GPU's are its data sheet's), over the "
        "time they took. 0: not known.");
    sl_text_add(t, "sluice_stage_mfu_ratio{role=\"%s\"} %.6f\n", role, ratio(&m->mfu_ppm));
    if (atomic_load(&m->has_mma)) {
        sl_metric_head(t, "gauge", "sluice_stage_mfu_mma_ratio",
                       "The same of a GPU, where the ceiling of integer products is that of mma.sync (IMMA) "
                       "alone, and not of wgmma (IGMMA).");
        sl_text_add(t, "sluice_stage_mfu_mma_ratio{role=\"%s\"} %.6f\n", role, ratio(&m->mma_ppm));
    }
    sl_metric_head(t, "gauge", "sluice_stage_roofline_ratio",
                   "Share of the same time that a limit of the machine explains: of each part the "
                   "larger of compute and memory (read bandwidth, measured at the start). The sum is "
                   "nearness to the roofline.");
    sl_text_add(t,
                "sluice_stage_roofline_ratio{role=\"%s\",limit=\"compute\"} %.6f\n"
                "sluice_stage_roofline_ratio{role=\"%s\",limit=\"memory\"} %.6f\n",
                role, ratio(&m->compute_ppm), role, ratio(&m->memory_ppm));
}
