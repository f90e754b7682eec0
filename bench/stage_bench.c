/* The stage of stage_bench.h, its pages, and the arithmetic of an account. */
#include "bench/stage_bench.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "model/pack/pack_cache.h"
#include "node/local/cluster.h"
#include "pipeline/stage/device_kind.h"
#include <assert.h>
#include <stdlib.h>

enum { BEST_OF = 3 }; /* rounds of a roofline */

/* ---- the stage ---- */

static sl_status open_pack(struct sl_stage_bench *b, struct sl_err *err)
{
    if (!b->options.model)
        return sl_fail(err, SL_E_USAGE, "say --model PATH");
    return sl_pack_open_any(&b->pack, b->options.model, err);
}

static sl_status take_memory(struct sl_stage_bench *b, struct sl_err *err)
{
    const struct sl_shape *shape = sl_pack_shape(b->pack);
    b->rows = calloc((size_t)b->options.max_tokens * shape->d_model, sizeof *b->rows);
    b->ids = calloc(b->options.max_tokens, sizeof *b->ids);
    if (!b->rows || !b->ids)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a chunk of %u tokens; use a smaller --chunk",
                       b->options.max_tokens);
    return SL_OK;
}

sl_status sl_stage_bench_open(struct sl_stage_bench *b, const struct sl_stage_bench_options *options,
                              struct sl_err *err)
{
    *b = (struct sl_stage_bench){.options = *options};
    SL_TRY(open_pack(b, err));
    SL_TRY(sl_device_kind_read(&b->device, options->device, err));
    uint32_t allowed = sl_profile_allowed(options->numerics), able = allowed & sl_device_profiles(b->device);
    if (!allowed)
        return sl_fail(err, SL_E_USAGE, "numerics profile %s is unknown; use " SL_NUMERICS_CHOICES,
                       options->numerics);
    enum sl_profile profile = sl_profile_best(able ? able : allowed);
    b->options.numerics = sl_profile_name(profile);
    b->options.n_threads = sl_cpu_threads(options->n_threads, 1);
    enum sl_dtype kv_dtype = sl_pack_kv_dtype(b->pack, options->kv);
    b->options.kv = sl_dtype_name(kv_dtype);
    struct sl_share config = {.end = sl_pack_shape(b->pack)->n_layers,
                              .with_embed = true,
                              .with_head = true,
                              .n_threads = b->options.n_threads,
                              .device = b->device,
                              .which = options->device,
                              .kv_dtype = kv_dtype,
                              .profile = profile,
                              .n_pages = options->n_sequences * sl_pages_of(options->context_tokens),
                              .max_tokens = options->max_tokens,
                              .max_sequences = options->n_sequences,
                              .context_tokens = options->context_tokens};
    SL_TRY(sl_ops_select_profile(&b->ops, profile, err));
    if (b->device == SL_DEVICE_CPU)
        sl_tune_for(b->pack, profile);
    SL_TRY(sl_stage_create(&b->stage, b->pack, &config, &b->options.load, err));
    return take_memory(b, err);
}

void sl_stage_bench_close(struct sl_stage_bench *b)
{
    sl_stage_destroy(b->stage);
    if (b->pack)
        sl_pack_close(b->pack);
    free(b->rows);
    free(b->ids);
}

/* `last`: of a prompt, so that its last row goes on to the head; no other row does, as in a pipeline. */
static void run_chunk(struct sl_stage_bench *b, struct sl_sequence *sequence, uint32_t pos, uint32_t n,
                      bool last)
{
    for (uint32_t i = 0; i < n; i++)
        b->ids[i] = (uint32_t)(sl_rng_at(sequence->id, pos + i) % sl_pack_shape(b->pack)->vocab);
    b->chunk.n_tokens = n;
    b->chunk.n_slices = 1;
    b->chunk.slices[0] = (struct sl_chunk_slice){sequence, pos, n, last ? n - 1 : n};
    b->chunk.x = b->rows;
    sl_stage_embed(b->stage, &b->chunk, (const uint8_t *)b->ids);
    sl_stage_run(b->stage, &b->chunk);
}

void sl_stage_bench_prefill(struct sl_stage_bench *b, struct sl_sequence *sequence, uint32_t pos, uint32_t n)
{
    for (uint32_t done = 0, rows; done < n; done += rows) {
        rows = n - done < b->options.max_tokens ? n - done : b->options.max_tokens;
        run_chunk(b, sequence, pos + done, rows, done + rows == n);
    }
    sl_stage_logits(b->stage, b->rows, 1);
}

sl_status sl_stage_bench_sequence(struct sl_stage_bench *b, uint64_t id, uint32_t n_tokens,
                                  uint32_t max_tokens, struct sl_sequence **sequence, struct sl_err *err)
{
    struct sl_sequence *s = sl_sequences_open(sl_stage_sequences(b->stage), id);
    if (!s || sl_stage_reserve(b->stage, s, max_tokens) != SL_OK)
        return sl_fail(err, SL_E_EXHAUSTED, "no KV pages for %u tokens; use a smaller --context", max_tokens);
    uint32_t first = n_tokens < b->options.max_tokens ? n_tokens : b->options.max_tokens;
    *sequence = s;
    if (first == 0)
        return SL_OK;
    run_chunk(b, s, 0, first, false);
    /* Whole pages of the first chunk, over and over; where it has none, its only page. */
    uint32_t source = first / SL_PAGE_TOKENS > 0 ? first / SL_PAGE_TOKENS : 1;
    for (uint32_t p = source; p < sl_pages_of(n_tokens); p++)
        sl_stage_page_in(b->stage, s->pages[p], 0, sl_pack_shape(b->pack)->n_layers,
                         sl_stage_page_out(b->stage, s->pages[p % source]));
    return SL_OK;
}

/* ---- the account ---- */

sl_status sl_account_begin(struct sl_account *account, const struct sl_stage_bench *b, struct sl_err *err)
{
    if (!sl_stage_roofline(b->stage, &account->roofline))
        SL_TRY(sl_roofline_measure(&account->roofline, b->ops, b->options.n_threads, BEST_OF, err));
    sl_stage_parts(b->stage, &account->parts, &account->run_ns);
    account->wall_ns = sl_clock_ns();
    return SL_OK;
}

void sl_account_end(struct sl_account *account, const struct sl_stage_bench *b)
{
    struct sl_parts now;
    uint64_t run_ns;
    account->wall_ns = sl_clock_ns() - account->wall_ns;
    sl_stage_parts(b->stage, &now, &run_ns);
    account->run_ns = run_ns - account->run_ns;
    if (b->device == SL_DEVICE_TWIN)
        account->wall_ns = 0;
    for (int p = 0; p < SL_PARTS; p++) {
        struct sl_part_sum *sum = &account->parts.part[p];
        *sum = (struct sl_part_sum){now.part[p].ns - sum->ns, now.part[p].ops - sum->ops,
                                    now.part[p].bytes - sum->bytes};
        account->wall_ns += b->device == SL_DEVICE_TWIN ? sum->ns : 0;
    }
}

/* One account's figures. Times of parts are summed over members: divided by their number they are
 * the team's. */
static void report_of(struct sl_stage_report *r, const struct sl_stage_bench *b, const struct sl_account *a,
                      uint32_t n_tokens)
{
    double wall = (double)a->wall_ns, n = sl_stage_members(b->stage), bytes = 0;
    bool simulated = b->device == SL_DEVICE_TWIN;
    *r = (struct sl_stage_report){
        .tok_per_s = simulated ? 0 : 1e9 * n_tokens / wall, .ms = wall / 1e6, .wait_share = 1};
    for (int p = 0; p < SL_PARTS; p++) {
        const struct sl_part_sum *sum = &a->parts.part[p];
        double ns = (double)sum->ns / n, ops = (double)sum->ops;
        enum sl_peak peak = sl_stage_part_peak(b->stage, (enum sl_part)p);
        double compute = sl_roofline_compute_ns(&a->roofline, peak, ops);
        double memory = sl_roofline_memory_ns(&a->roofline, (double)sum->bytes);
        double least = compute > memory ? compute : memory;
        r->part[p] =
            (struct sl_part_report){.share = ns / wall, .ms = ns / 1e6, .memory_bound = memory > compute};
        if (sum->ns > 0 && !simulated) {
            r->part[p].gops = ops / ns;
            r->part[p].gb_per_s = (double)sum->bytes / ns;
            r->part[p].roofline_share = least / ns;
        }
        r->mfu += compute / wall;
        r->mfu_mma += sl_roofline_mma_ns(&a->roofline, peak, ops) / wall;
        r->roofline_share += least / wall;
        r->wait_share -= ns / wall;
        bytes += (double)sum->bytes;
    }
    r->gb_per_s = simulated ? 0 : bytes / wall;
    r->read_share = a->roofline.bytes_per_ns > 0 ? r->gb_per_s / a->roofline.bytes_per_ns : 0;
}

void sl_stage_report_make(struct sl_stage_report *report, const struct sl_stage_bench *b,
                          const struct sl_account *accounts, uint32_t n_accounts, uint32_t n_tokens)
{
    struct sl_stage_report each[SL_SAMPLES_MAX];
    double values[SL_SAMPLES_MAX];
    assert(n_accounts > 0 && n_accounts <= SL_SAMPLES_MAX);
    for (uint32_t i = 0; i < n_accounts; i++)
        report_of(&each[i], b, &accounts[i], n_tokens);
    *report = each[0]; /* which limit binds: the first round's word */
#define MEDIAN(field)                                                                                        \
    do {                                                                                                     \
        for (uint32_t i = 0; i < n_accounts; i++)                                                            \
            values[i] = each[i].field;                                                                       \
        report->field = sl_median(values, n_accounts);                                                       \
    } while (0)
    MEDIAN(tok_per_s);
    MEDIAN(ms);
    MEDIAN(mfu);
    MEDIAN(mfu_mma);
    MEDIAN(roofline_share);
    MEDIAN(read_share);
    MEDIAN(gb_per_s);
    MEDIAN(wait_share);
    for (int p = 0; p < SL_PARTS; p++) {
        MEDIAN(part[p].share);
        MEDIAN(part[p].ms);
        MEDIAN(part[p].gops);
        MEDIAN(part[p].gb_per_s);
        MEDIAN(part[p].roofline_share);
    }
#undef MEDIAN
}
