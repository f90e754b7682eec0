/* The measuring of calibrate.h. Points are measured in the order of what they should cost, the cheapest first, by a model that
 * learns from each, so that the time is kept however wrong the prior was; then again, the cheapest first, while there is time
 * left: a point's value is the least of them, since what disturbs a chunk only makes it longer. */
#include "pipeline/stage/calibrate.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/log.h"
#include "base/rng.h"
#include "kernels/device.h"
#include "model/pack/cache_store.h"
#include "pipeline/stage/device_wait.h"
#include "pipeline/stage/prior.h"
#include "pipeline/stage/utilisation.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 5, LEAST_POINTS = 3, UNWANTED_POINTS = 3, ROW_STEP = 64, POOL_ROWS = 512 };
static const uint64_t most_start_us = 2000000;
static const uint64_t least_kept_us =
    20000; /* a start that measures for less does so each time, and leaves no file */
static const uint64_t start_bytes_per_us = 150; /* of weights, for each microsecond that a start may take */

struct trial_point {
    uint32_t pos, rows, wanted, n; /* measured n times */
    double us;                     /* the least of them */
};

struct had { /* of the clock on the wall, and of processors */
    uint64_t wall_ns, thread_ns, process_ns;
};

struct calibrator {
    struct sl_stage *stage;
    struct sl_chunk chunk;
    uint32_t *ids;
    float *rows, *pool; /* of a stage that does not embed: random rows to begin with */
    struct sl_cost prior, now;
    uint32_t n_points, most_rows, most_pos; /* of the points */
    struct trial_point points[SL_COST_POINTS];
    uint64_t budget_ns;
    struct had began;
};

/* ---- the prior ---- */

/* Of a device whose memory has no known speed (a GPU that is a twin, or of no known kind) it is a shape and claims nothing. */
static sl_status prior_of(struct sl_stage_calibration *calibration, const struct sl_stage *stage,
                          struct sl_err *err)
{
    struct sl_utilisation u;
    SL_TRY(sl_utilisation_init(&u, stage, err));
    calibration->no_peaks = !(u.roofline.bytes_per_ns > 0);
    sl_stage_prior(&calibration->prior, stage, &u.roofline);
    return SL_OK;
}

/* ---- dummy chunks ---- */

static void add_point(struct calibrator *c, uint32_t pos, uint32_t rows, uint32_t wanted)
{
    c->points[c->n_points++] = (struct trial_point){.pos = pos, .rows = rows, .wanted = wanted};
    c->most_rows = rows > c->most_rows ? rows : c->most_rows;
    c->most_pos = pos > c->most_pos ? pos : c->most_pos;
}

/* Where prompts end, each of them ends one; chunks of which nothing is wanted show what that costs. */
static void add_points(struct calibrator *c)
{
    const struct sl_share *share = sl_stage_share(c->stage);
    uint64_t pool = (uint64_t)share->n_pages * SL_PAGE_TOKENS;
    uint32_t reach = pool < share->context_tokens ? (uint32_t)pool : share->context_tokens,
             most = share->max_tokens < reach ? share->max_tokens : reach;
    uint32_t rows[] = {1, 16, 64, 256, most}, positions[] = {0, 1024, 4096};
    for (int i = 1; i < 3; i++) { /* a short context has its quarter and its half */
        uint32_t part = reach / (i == 1 ? 4 : 2) / SL_PAGE_TOKENS * SL_PAGE_TOKENS;
        positions[i] = part < positions[i] ? part : positions[i];
    }
    for (int r = 0; r < 5; r++)
        for (int p = 0; p < 3; p++) {
            bool again = (r == 4 && most <= 256) || (p > 0 && positions[p] <= positions[p - 1]);
            if (again || rows[r] > most || positions[p] + rows[r] > reach)
                continue;
            add_point(c, positions[p], rows[r], share->with_head);
            if (share->with_head && p == 0 && r < UNWANTED_POINTS)
                add_point(c, positions[p], rows[r], 0);
        }
}

static sl_status take_memory(struct calibrator *c, struct sl_err *err)
{
    uint32_t most = c->most_rows, d_model = sl_stage_shape(c->stage)->d_model;
    struct sl_rng rng = {1, 0};
    c->rows = calloc((size_t)most * d_model, sizeof *c->rows);
    c->pool = calloc((size_t)d_model + POOL_ROWS * ROW_STEP, sizeof *c->pool);
    c->ids = calloc(most, sizeof *c->ids);
    if (!c->rows || !c->pool || !c->ids)
        return sl_fail(err, SL_E_NOMEM, "out of memory to measure chunks of %u tokens; free some", most);
    for (size_t i = 0; i < (size_t)d_model + POOL_ROWS * ROW_STEP; i++)
        c->pool[i] = (float)(sl_rng_unit(sl_rng_next(&rng)) - 0.5);
    for (uint32_t i = 0; i < most; i++)
        c->ids[i] = (uint32_t)(sl_rng_next(&rng) % sl_stage_shape(c->stage)->vocab);
    return SL_OK;
}

/* What the stage had of its processors, where chunks are computed on them: neighbours slow all chunks down alike, which the first
 * real ones show, but here they would hit some points and not others. Of a team it is this thread's time (which has the serial
 * parts) or an equal share of all members', whichever is more: one that was held up has its work done by the others. A device is
 * elsewhere. */
static struct had had_now(void)
{
    return (struct had){sl_clock_ns(), sl_clock_thread_ns(), sl_clock_process_ns()};
}

static uint64_t ns_since(const struct calibrator *c, const struct had *began)
{
    const struct sl_share *share = sl_stage_share(c->stage);
    struct had now = had_now();
    uint32_t processors = sl_cpu_threads(0, 1),
             members = share->n_threads < processors ? share->n_threads : processors;
    uint64_t own = now.thread_ns - began->thread_ns, each = (now.process_ns - began->process_ns) / members;
    if (share->device != SL_DEVICE_CPU)
        return now.wall_ns - began->wall_ns;
    return share->n_threads == 1 || own > each ? own : each;
}

/* Microseconds of one chunk. */
static double run_point(struct calibrator *c, struct sl_sequence *sequence, const struct trial_point *point)
{
    uint32_t d_model = sl_stage_shape(c->stage)->d_model;
    c->chunk.n_tokens = point->rows;
    c->chunk.n_slices = 1;
    c->chunk.slices[0] = (struct sl_chunk_slice){
        .sequence = sequence,
        .pos = point->pos,
        .n = point->rows,
        .kv_only = sl_stage_share(c->stage)->with_head ? point->rows - point->wanted : 0};
    c->chunk.x = c->rows;
    bool embeds = sl_stage_share(c->stage)->with_embed;
    for (uint32_t i = 0; i < point->rows && !embeds;
         i++) /* unlike each other, so that they go to unlike experts */
        memcpy(c->rows + (size_t)i * d_model, c->pool + (size_t)(i % POOL_ROWS) * ROW_STEP,
               d_model * sizeof(float));
    struct had began = had_now();
    if (embeds)
        sl_stage_embed(c->stage, &c->chunk, (const uint8_t *)c->ids);
    sl_stage_run(c->stage, &c->chunk);
    if (point->wanted)
        sl_stage_logits(c->stage, c->chunk.x, point->wanted);
    return (double)ns_since(c, &began) / 1000;
}

static struct sl_cost_chunk chunk_of(const struct trial_point *p)
{
    return sl_measured_chunk(&(struct sl_measured_point){p->pos, p->rows, p->wanted, p->us});
}

static void fit(struct calibrator *c)
{
    struct sl_cost_point points[SL_COST_POINTS];
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_points; i++)
        if (c->points[i].n > 0)
            points[n++] = (struct sl_cost_point){chunk_of(&c->points[i]), c->points[i].us};
    sl_cost_fit_points(&c->now, &c->prior, points, n);
}

/* The cheapest point that has been measured `round` times. */
static struct trial_point *next_point(struct calibrator *c, uint32_t round, double *us)
{
    struct trial_point *best = NULL;
    for (uint32_t i = 0; i < c->n_points; i++) {
        struct sl_cost_chunk chunk = chunk_of(&c->points[i]);
        double cost = sl_cost_of(&c->now, &chunk);
        if (c->points[i].n != round || (best && cost >= *us))
            continue;
        best = &c->points[i];
        *us = cost;
    }
    return best;
}

/* Whether a chunk of so many microseconds is one too many. Among busy neighbours it may take four times as long. */
static bool is_over(const struct calibrator *c, double us)
{
    return ns_since(c, &c->began) + (uint64_t)(us * 1000) > c->budget_ns ||
           sl_clock_ns() - c->began.wall_ns > 4 * c->budget_ns;
}

static void measure(struct calibrator *c, struct sl_sequence *sequence)
{
    double us = 0;
    uint32_t seen = 0;
    c->now = c->prior;
    c->began = had_now();
    for (uint32_t i = 0; i < c->n_points && i < 2; i++) /* the first that a process does is slow */
        run_point(c, sequence, &c->points[i]);
    for (uint32_t round = 0; round < ROUNDS; round++)
        for (struct trial_point *p; (p = next_point(c, round, &us)); seen++) {
            if (seen >= LEAST_POINTS && is_over(c, us))
                break; /* the others are dearer; in the next round the cheap ones may fit */
            double took = run_point(c, sequence, p);
            p->us = p->n++ == 0 || took < p->us ? took : p->us;
            fit(c);
        }
}

static sl_status run(struct calibrator *c, struct sl_err *err)
{
    struct sl_sequences *t = sl_stage_sequences(c->stage);
    uint32_t next = t->next, reach = 0;
    for (uint32_t i = 0; i < c->n_points; i++)
        if (c->points[i].pos + c->points[i].rows > reach)
            reach = c->points[i].pos + c->points[i].rows;
    SL_TRY(take_memory(c, err));
    struct sl_sequence *sequence = sl_sequences_open(t, UINT64_MAX);
    sl_status status = sequence ? sl_stage_reserve(c->stage, sequence, reach) : SL_E_EXHAUSTED;
    if (status == SL_OK)
        measure(c, sequence);
    else
        sl_fail(err, status, "a stage in use can't be measured: %u tokens of KV pages are not free", reach);
    if (sequence)
        sl_sequences_close(t, sequence);
    t->next = next;
    return status;
}

/* ---- what is kept ---- */

/* Whose cost it is: all that it depends on. */
static void key_of(const struct calibrator *c, const struct sl_pack *pack, char key[SL_COST_KEY])
{
    const struct sl_share *s = sl_stage_share(c->stage);
#ifdef SLUICE_SYSTEM_ALLOCATOR
    static const char instrumented[] = " (instrumented)"; /* by a sanitizer: many times slower */
#else
    static const char instrumented[] = "";
#endif
    char cpu[64], threads[32] = ""; /* a GPU computes with none of the host's */
    struct sl_device_identity which;
    const char *device = sl_stage_identify(c->stage, &which);
    sl_cpu_model_name(cpu, sizeof cpu);
    if (!which.name[0])
        snprintf(threads, sizeof threads, ", %u threads", s->n_threads);
    snprintf(
        key, SL_COST_KEY,
        "%s\nsluice %s%s, %s kernels, profile %s, device %s%s%s%s\nmodel %.64s\nlayers %u to %u%s, KV %s\n",
        cpu, SLUICE_VERSION, instrumented, sl_stage_isa(c->stage), sl_profile_name(s->profile), device,
        which.name[0] ? " " : "", which.name, threads, sl_pack_digest(pack), s->begin, s->end,
        s->with_embed ? " with embedding" : "", sl_dtype_name(s->kv_dtype));
}

static void write_down(struct sl_measured_cost *m, const struct calibrator *c)
{
    *m = (struct sl_measured_cost){.cost = c->now, .reach_rows = c->most_rows, .reach_pos = c->most_pos};
    for (uint32_t i = 0; i < c->n_points; i++)
        if (c->points[i].n > 0)
            m->points[m->n_points++] = (struct sl_measured_point){c->points[i].pos, c->points[i].rows,
                                                                  c->points[i].wanted, c->points[i].us};
}

sl_status sl_stage_calibrate(struct sl_stage_calibration *calibration, struct sl_stage *stage,
                             const struct sl_pack *pack, const struct sl_stage_trial *trial,
                             struct sl_err *err)
{
    struct calibrator c = {.stage = stage, .budget_ns = trial->budget_us * 1000};
    char key[SL_COST_KEY];
    *calibration = (struct sl_stage_calibration){.kept = false};
    SL_TRY(prior_of(calibration, stage, err));
    c.prior = calibration->prior;
    add_points(&c);
    key_of(&c, pack, key);
    calibration->kept = trial->dir && !trial->fresh &&
                        sl_cost_load(&calibration->measured, key, trial->dir) &&
                        calibration->measured.reach_rows >= c.most_rows &&
                        calibration->measured.reach_pos >= c.most_pos; /* else we know more in a moment */
    if (calibration->kept)
        return SL_OK;
    sl_status status = run(&c, err);
    if (status == SL_OK) {
        write_down(&calibration->measured, &c);
        if (trial->dir && !sl_cost_save(&calibration->measured, key, trial->dir))
            sl_log_warn("what chunks cost could not be kept in %s; it is measured at every start",
                        trial->dir);
    }
    free(c.rows);
    free(c.pool);
    free(c.ids);
    return status;
}

bool sl_stage_cost(struct sl_cost *cost, struct sl_stage *stage, const struct sl_pack *pack)
{
    if (sl_stage_waited(cost)) /* it is known, and a processor that waits has nothing to measure */
        return true;
    struct sl_stage_reads reads = sl_stage_reads_of(stage);
    uint64_t budget_us = (reads.always + reads.routed) / start_bytes_per_us;
    char dir[4000];
    struct sl_err err;
    struct sl_stage_trial trial = {.budget_us = budget_us < most_start_us ? budget_us : most_start_us};
    struct sl_stage_calibration calibration;
    if (budget_us >= least_kept_us && sl_cache_dir(dir, sizeof dir, &err) == SL_OK)
        trial.dir = dir;
    if (sl_stage_calibrate(&calibration, stage, pack, &trial, &err) != SL_OK) {
        sl_log_warn("the cost of chunks is guessed until some have run: %s", err.text);
        return false;
    }
    *cost = calibration.measured.cost;
    sl_log_info(
        "a chunk costs %.0f us, %.3g us a row and %.3g us for its experts (%s; `sluice calibrate` says more)",
        cost->us[SL_COST_C], cost->us[SL_COST_B], cost->us[SL_COST_W],
        calibration.kept ? "as it was kept" : "measured now");
    bool sane = sl_cost_is_sane(cost);
    if (sane)
        sl_stage_expect(stage, cost);
    return sane;
}
