/* `sluice calibrate`: what chunks cost on each stage of a cut, measured here and now (pipeline/stage/calibrate.h), and what the
 * schedule would make of it. One stage after the other is loaded, so a machine that holds one of them can measure all. */
#include "base/cpu.h"
#include "kernels/device.h"
#include "model/pack/cache_store.h"
#include "model/pack/pack_cache.h"
#include "node/client/output.h"
#include "node/command/commands.h"
#include "node/command/shared_options.h"
#include "node/local/cluster.h"
#include "pipeline/decide/budget.h"
#include "pipeline/stage/calibrate.h"
#include "pipeline/stage/device_kind.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BUDGET_US = 2000000, FAR = 8192 };

struct calibrate_values {
    uint32_t stages, threads, chunk;
    const char *kv, *numerics, *layers, *device;
    bool fresh, json;
    struct sl_loading_values load;
};

static const struct sl_option calibrate_options[] = {
    SL_OPTION_STAGES(calibrate_values, stages, "1"),
    SL_OPTION_LAYERS(calibrate_values, layers),
    SL_OPTION_THREADS(calibrate_values, threads, "0"),
    SL_OPTION_DEVICE(calibrate_values, device),
    SL_OPTION_CHUNK(calibrate_values, chunk),
    SL_OPTION_KV(calibrate_values, kv),
    SL_OPTION_NUMERICS(calibrate_values, numerics, "f32"),
    SL_OPTION_ROW("fresh", SL_OPT_BOOL, calibrate_values, fresh, NULL, NULL, 0, 0, NULL,
                  "Measure anew, whatever is kept in the cache directory, and keep that."),
    SL_LOADING_ROWS(calibrate_values),
    SL_OPTION_JSON(calibrate_values, json),
    {0},
};

static const struct {
    const char *name, *unit, *meaning;
} terms[SL_COST_TERMS] = {
    {"c", "us", "a chunk, whatever is in it"},
    {"gamma", "us/token", "each token before a slice: its KV pages are read"},
    {"b", "us/row", "each row: its matrices"},
    {"a", "us/pair", "each pair of a slice's 2*pos*n + n*n: attention"},
    {"w", "us", "reading all experts; X rows read the share 1-(1-p)^X of them"},
    {"e", "us", "each prompt that ends: the rest of the last layer, and the head"},
};

/* What the schedule makes of a stage's cost. */
struct verdict {
    double ridge;            /* rows; 0: no experts, or no work */
    double target;           /* T*, in us (pipeline/decide/budget.h) */
    double far_target;       /* the least for a chunk behind FAR tokens */
    double overhead;         /* the share of T* that is no row's */
    uint32_t rows, far_rows; /* that they buy, of at most a chunk */
};

static double slice_us(const struct sl_cost *cost, uint32_t pos, uint32_t rows)
{
    struct sl_cost_chunk chunk = {0};
    sl_cost_add(&chunk, pos, rows);
    return sl_cost_of(cost, &chunk);
}

static uint32_t rows_for(const struct sl_cost *cost, uint32_t pos, double us, uint32_t most)
{
    uint32_t low = 0, high = most;
    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;
        if (slice_us(cost, pos, middle) <= us)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static struct verdict judge(const struct sl_cost *cost, uint32_t max_chunk)
{
    struct sl_budget budget;
    sl_budget_make(&budget, cost, 1, max_chunk, &(struct sl_pace){0}, &(struct sl_budget_wish){0});
    struct verdict v = {.target = sl_budget_chunk_us(&budget, 0),
                        .far_target = sl_budget_chunk_us(&budget, FAR)};
    v.overhead = v.target > 0 ? sl_cost_overhead(cost, 0) / v.target : 0;
    v.ridge = cost->us[SL_COST_B] > 0 ? cost->us[SL_COST_W] / cost->us[SL_COST_B] : 0;
    v.rows = rows_for(cost, 0, v.target, max_chunk);
    v.far_rows = rows_for(cost, FAR, v.far_target, max_chunk);
    return v;
}

static double point_us(const struct sl_measured_cost *m, uint32_t i)
{
    struct sl_cost_chunk chunk = sl_measured_chunk(&m->points[i]);
    return sl_cost_of(&m->cost, &chunk);
}

static double error_of(const struct sl_measured_cost *m, uint32_t i)
{
    return point_us(m, i) / m->points[i].us - 1;
}

static double largest_error(const struct sl_measured_cost *m)
{
    double most = 0;
    for (uint32_t i = 0; i < m->n_points; i++)
        most = fmax(most, fabs(error_of(m, i)));
    return most;
}

static void print_json_device(const struct sl_stage *stage)
{
    struct sl_device_identity which;
    printf("\"device\": \"%s\", ", sl_stage_identify(stage, &which));
    if (!which.name[0])
        return;
    fputs("\"gpu\": ", stdout);
    sl_json_string(stdout, which.name, strlen(which.name));
    fputs(", ", stdout);
}

static void print_json_coefficients(const struct sl_stage_calibration *c)
{
    const struct sl_cost *cost = &c->measured.cost;
    fputs("   \"coefficients\": {", stdout);
    for (int i = 0; i < SL_COST_TERMS; i++)
        printf("\"%s\": %.6g, ", terms[i].name, cost->us[i]);
    printf("\"hit\": %.6g},\n   \"prior\": ", cost->hit);
    for (int i = 0; i < SL_COST_TERMS && !c->no_peaks; i++)
        printf("%s\"%s\": %.6g", i ? ", " : "{", terms[i].name, c->prior.us[i]);
    fputs(c->no_peaks ? "null" : "}", stdout);
}

static void print_json(const struct sl_stage *stage, uint32_t k, const struct sl_stage_calibration *c)
{
    const struct sl_share *s = sl_stage_share(stage);
    const struct sl_measured_cost *m = &c->measured;
    struct verdict v = judge(&m->cost, s->max_tokens);
    printf("%s\n  {\"stage\": %u, \"layers\": [%u, %u], \"threads\": %u, ", k ? "," : "", k, s->begin, s->end,
           s->n_threads);
    print_json_device(stage);
    printf("\"kernels\": \"%s\", \"kept\": %s,\n", sl_stage_isa(stage), c->kept ? "true" : "false");
    print_json_coefficients(c);
    fputs(",\n   \"points\": [", stdout);
    for (uint32_t i = 0; i < m->n_points; i++)
        printf("%s\n    {\"pos\": %u, \"rows\": %u, \"ends\": %u, \"us\": %.6g, \"predicted_us\": %.6g}",
               i ? "," : "", m->points[i].pos, m->points[i].rows, m->points[i].wanted, m->points[i].us,
               point_us(m, i));
    printf(
        "],\n   \"largest_error\": %.4g, \"expert_ridge_rows\": %.4g, \"target_us\": %.6g, \"target_rows\": %u,\n"
        "   \"target_us_behind_8192\": %.6g, \"target_rows_behind_8192\": %u}",
        largest_error(m), v.ridge, v.target, v.rows, v.far_target, v.far_rows);
}

static void print_text(const struct sl_stage *stage, uint32_t k, const struct sl_stage_calibration *c)
{
    const struct sl_share *s = sl_stage_share(stage);
    const struct sl_measured_cost *m = &c->measured;
    struct verdict v = judge(&m->cost, s->max_tokens);
    struct sl_device_identity which;
    const char *device = sl_stage_identify(stage, &which);
    printf("stage %u: layers %u to %u%s, %u threads, %s%s%s kernels; %s\n", k, s->begin, s->end - 1,
           s->with_embed ? " and the embedding" : "", s->n_threads, which.name, which.name[0] ? ", " : "",
           sl_stage_isa(stage), c->kept ? "as it was kept (--fresh measures anew)" : "measured now");
    if (strcmp(device, "twin") == 0)
        puts(
            "  a twin is a program that does what a GPU would: these are its own times, and those of no GPU");
    for (int i = 0; i < SL_COST_TERMS; i++)
        printf("  %-5s %11.5g %-9s %s\n", terms[i].name, m->cost.us[i], terms[i].unit, terms[i].meaning);
    printf("  p     %11.5g %-9s share of the experts that a row hits\n", m->cost.hit, "");
    fputs("  rows behind tokens   measured  predicted   error\n", stdout);
    for (uint32_t i = 0; i < m->n_points; i++)
        printf("  %4u %13u %7.2f ms %7.2f ms %+6.1f %%%s\n", m->points[i].rows, m->points[i].pos,
               m->points[i].us / 1000, point_us(m, i) / 1000, 100 * error_of(m, i),
               m->points[i].wanted ? ", a prompt ends" : "");
    if (v.ridge > 0)
        printf(
            "  expert ridge: %.0f rows; a chunk of fewer takes longer to read the experts than to use them\n",
            v.ridge);
    printf(
        "  T* %.3g ms, of which %.0f %% is overhead: %u rows at a prompt's beginning; behind %d tokens %.3g ms, "
        "%u rows%s\n",
        v.target / 1000, 100 * v.overhead, v.rows, FAR, v.far_target / 1000, v.far_rows,
        v.rows < SL_PAGE || v.far_rows < SL_PAGE ? " (a slice has 64 even so)" : "");
}

static sl_status measure_stage(const struct sl_pack *pack, const struct sl_plan *plan, uint32_t k,
                               const struct calibrate_values *v, enum sl_device_kind device,
                               double *target_us, struct sl_err *err)
{
    struct sl_share share = sl_plan_share(plan, k, sl_cpu_threads(v->threads, v->stages));
    share.device = device;
    share.which = v->device;
    struct sl_loading load = sl_loading_of(&v->load, SL_PROGRESS_NONE);
    struct sl_stage_calibration c;
    struct sl_stage *stage;
    char dir[4000];
    SL_TRY(sl_cache_dir(dir, sizeof dir, err));
    SL_TRY(sl_stage_create(&stage, pack, &share, &load, err));
    sl_status status = sl_stage_calibrate(
        &c, stage, pack, &(struct sl_stage_trial){.budget_us = BUDGET_US, .dir = dir, .fresh = v->fresh},
        err);
    if (status == SL_OK) {
        (v->json ? print_json : print_text)(stage, k, &c);
        fflush(stdout);
        *target_us = fmax(*target_us, judge(&c.measured.cost, share.max_tokens).target);
    }
    sl_stage_destroy(stage);
    return status;
}

static sl_status make_plan(struct sl_plan *plan, const struct sl_pack *pack, const struct calibrate_values *v,
                           enum sl_device_kind device, struct sl_err *err)
{
    uint32_t allowed = sl_profile_allowed(v->numerics), able = allowed & sl_device_profiles(device);
    struct sl_plan_options options = {.n_stages = v->stages,
                                      .kv_dtype = sl_pack_kv_dtype(pack, v->kv),
                                      .chunk_tokens = v->chunk,
                                      .max_running = 1,
                                      .epoch = 1,
                                      .profile = sl_profile_best(able ? able : allowed)};
    uint32_t layers[SL_MAX_STAGES];
    SL_TRY(sl_layers_read(&options.layers, layers, v->layers, v->stages, err));
    return sl_plan_for_shape(plan, sl_pack_shape(pack), &options, err);
}

static sl_status calibrate(const struct sl_pack *pack, const struct calibrate_values *v,
                           enum sl_device_kind device, struct sl_err *err)
{
    struct sl_plan plan;
    double target_us = 0;
    SL_TRY(make_plan(&plan, pack, v, device, err));
    sl_tune_for(pack, plan.profile);
    if (v->json)
        printf("{\"digest\": \"%s\", \"stages\": [", sl_pack_digest(pack));
    for (uint32_t k = 0; k < plan.n_stages; k++)
        SL_TRY(measure_stage(pack, &plan, k, v, device, &target_us, err));
    if (v->json)
        printf("],\n \"target_us\": %.6g}\n", target_us);
    else if (plan.n_stages > 1)
        printf("T* of the pipeline: %.3g ms, that of its slowest stage\n", target_us / 1000);
    return SL_OK;
}

static int run_calibrate(const void *values, const char *const *args, uint32_t n_args)
{
    const struct calibrate_values *v = values;
    struct sl_pack *pack = NULL;
    struct sl_err err = {0};
    enum sl_device_kind device;
    (void)n_args;
    sl_status status = sl_device_kind_read(&device, v->device, &err);
    if (status == SL_OK)
        status = sl_device_look(device, &err);
    if (status == SL_OK)
        status = sl_pack_open_any(&pack, args[0], &err);
    if (status == SL_OK)
        status = calibrate(pack, v, device, &err);
    sl_pack_close(pack);
    return status == SL_OK ? 0 : sl_command_failed("calibrate", &err);
}

const struct sl_command sl_command_calibrate = {
    "calibrate",
    "PATH",
    "what chunks cost here, stage by stage",
    "Loads one stage of the cut after the other and measures a few chunks of several sizes, for some two seconds each. Prints the "
    "coefficients of the time that a chunk takes,\n\n"
    "  t = c + sum over slices (gamma*pos + b*n + a*(2*pos*n + n*n)) + w*(1 - (1 - p)^rows),\n\n"
    "how far it is from what was measured, the rows from which on experts take longer to use than to read, and the time of a chunk "
    "(T*) that the schedule would begin with. It is kept in the cache directory, for this device, where serve and stage find it; while "
    "requests run, they correct it. With --json it is what `plan --from-cost` reads.",
    calibrate_options,
    sizeof(struct calibrate_values),
    1,
    1,
    run_calibrate,
};
