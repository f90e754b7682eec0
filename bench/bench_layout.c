/* The measurement of `sluice bench layout`. For each number of nodes six arms stand side by side and take turns, round by round:
 *
 *   one        one node with all layers, chunk by chunk: what a pipeline's stage takes, and whose bits the others must have
 *   all        one node with all experts, as many rows at once as the nodes of the experts' layout have together: its parts are what
 *              the algebra divides; and the same with the exact combine
 *   layers     the pipeline
 *   node       sharded experts, as in the field
 *   exact      sharded experts, with the bits of one node: the proof
 *
 * Times of the tapes are medians over the rounds (one more, which warms up, does not count). On a virtual clock one measurement
 * serves every delay; on a real one each delay is imposed by the transport and measured for itself. */
#include "bench/bench_layout.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/digest.h"
#include "base/rng.h"
#include "bench/bench_stage.h"
#include "bench/layout_algebra.h"
#include "bench/layout_report.h"
#include "bench/layout_world.h"
#include "bench/samples.h"
#include "model/pack/pack_cache.h"
#include "pipeline/decide/limits.h"
#include <stdlib.h>
#include <string.h>

enum { LISTS_MAX = 16, DELAY_MOST_US = 100000, ROUNDS_MOST = 101, CHUNKS_MOST = 1024 };
enum { ARM_ONE, ARM_ALL, ARM_ALL_EXACT, ARM_LAYERS, ARM_NODE, ARM_EXACT, ARMS };

struct arm {
    struct sl_layout_config config;
    struct sl_layout_world *world;
    struct sl_tape *tapes; /* [rounds][n_nodes] */
    struct sl_tape medians[SL_LAYOUT_NODES_MAX];
    double latency_ns[ROUNDS_MOST];
    uint64_t digest;
};

struct layout_bench {
    const struct sl_bench_layout *asked;
    struct sl_pack *pack;
    const struct sl_shape *shape;
    uint32_t *ids;
    uint32_t nodes[LISTS_MAX], n_nodes, delays[LISTS_MAX], n_delays, n_routed;
    double seal_ns_per_byte, copy_ns_per_byte;
    struct sl_layout_report report;
    struct arm arms[ARMS];
};

struct layout_group {                       /* what is measured together */
    uint32_t n_nodes, prompt_tokens, share; /* rows of a node at once, of experts */
    bool real;
    uint32_t delay_us; /* real */
};

/* ---- arms ---- */

static uint32_t whole_pages(uint32_t rows)
{
    return sl_pages_of(rows) * SL_PAGE;
}

static struct sl_layout_config arm_config(const struct layout_bench *b, const struct layout_group *g, int arm)
{
    struct sl_layout_config c = {.pack = b->pack,
                                 .kv = b->asked->kv,
                                 .kind = SL_LAYOUT_EXPERTS,
                                 .combine = arm == ARM_EXACT || arm == ARM_ALL_EXACT ? SL_COMBINE_EXACT
                                                                                     : SL_COMBINE_NODE,
                                 .n_nodes = g->n_nodes,
                                 .ids = b->ids,
                                 .n_ids = g->prompt_tokens,
                                 .rows = g->share,
                                 .transport = b->asked->transport,
                                 .real = g->real,
                                 .delay_us = g->delay_us,
                                 .gbit = b->asked->gbit};
    if (arm == ARM_ONE || arm == ARM_LAYERS) {
        c.kind = SL_LAYOUT_LAYERS;
        c.rows = b->asked->chunk;
    }
    bool all = arm == ARM_ALL || arm == ARM_ALL_EXACT;
    if (arm == ARM_ONE || all)
        c.n_nodes = 1;
    if (all)
        c.rows = whole_pages(g->prompt_tokens) < g->share * g->n_nodes ? whole_pages(g->prompt_tokens)
                                                                       : g->share * g->n_nodes;
    return c;
}

static bool is_wanted(const struct layout_bench *b, const struct layout_group *g, int arm)
{
    return arm == ARM_ONE || (g->n_nodes > 1 && (arm == ARM_LAYERS || b->n_routed > 0));
}

static sl_status open_arms(struct layout_bench *b, const struct layout_group *g, struct sl_err *err)
{
    memset(b->arms, 0, sizeof b->arms);
    for (int i = 0; i < ARMS; i++) {
        struct arm *arm = &b->arms[i];
        if (!is_wanted(b, g, i))
            continue;
        arm->config = arm_config(b, g, i);
        arm->tapes = calloc((size_t)b->asked->rounds * arm->config.n_nodes, sizeof *arm->tapes);
        if (!arm->tapes)
            return sl_fail(err, SL_E_NOMEM, "out of memory for %u rounds", b->asked->rounds);
        SL_TRY(sl_layout_open(&arm->world, &arm->config, err));
    }
    return SL_OK;
}

static void close_arms(struct layout_bench *b)
{
    for (int i = 0; i < ARMS; i++) {
        struct arm *arm = &b->arms[i];
        sl_layout_close(arm->world);
        for (uint32_t k = 0; arm->tapes && k < b->asked->rounds * arm->config.n_nodes; k++)
            sl_tape_free(&arm->tapes[k]);
        for (uint32_t k = 0; k < SL_LAYOUT_NODES_MAX; k++)
            sl_tape_free(&arm->medians[k]);
        free(arm->tapes);
    }
}

/* The first round's tapes are written over by the second one's. */
static sl_status run_rounds(struct layout_bench *b, struct sl_err *err)
{
    for (uint32_t round = 0; round <= b->asked->rounds; round++)
        for (int i = 0; i < ARMS; i++) {
            struct arm *arm = &b->arms[i];
            uint32_t at = round > 0 ? round - 1 : 0;
            struct sl_layout_result result;
            if (!arm->world)
                continue;
            SL_TRY(sl_layout_round(arm->world, arm->tapes + (size_t)at * arm->config.n_nodes, &result, err));
            arm->latency_ns[at] = result.latency_ns;
            if (round > 0 && result.digest != arm->digest)
                return sl_fail(err, SL_E_INTERNAL,
                               "two rounds of one arm on %u nodes have different bits; report this",
                               arm->config.n_nodes);
            arm->digest = result.digest;
        }
    return SL_OK;
}

static sl_status take_medians(struct layout_bench *b, struct sl_err *err)
{
    const struct sl_tape *alike[ROUNDS_MOST];
    for (int i = 0; i < ARMS; i++) {
        struct arm *arm = &b->arms[i];
        for (uint32_t k = 0; arm->world && k < arm->config.n_nodes; k++) {
            for (uint32_t round = 0; round < b->asked->rounds; round++)
                alike[round] = &arm->tapes[(size_t)round * arm->config.n_nodes + k];
            if (!sl_tape_medians(&arm->medians[k], alike, b->asked->rounds))
                return sl_fail(err, SL_E_INTERNAL,
                               "node %u did not do the same in all rounds, or there is no memory", k);
        }
    }
    return SL_OK;
}

/* ---- one node, for the algebra ---- */

static uint32_t chunks_of(const struct layout_bench *b, uint32_t prompt_tokens)
{
    return (prompt_tokens + b->asked->chunk - 1) / b->asked->chunk;
}

/* chunk_ns: [chunks_of]. */
static struct sl_layout_one one_of(const struct layout_bench *b, const struct layout_group *g, bool exact,
                                   double *chunk_ns)
{
    struct sl_layout_one one = {.chunk_ns = chunk_ns,
                                .chunk_rows = b->asked->chunk,
                                .n_rows = g->prompt_tokens,
                                .seal_ns_per_byte = b->seal_ns_per_byte,
                                .copy_ns_per_byte = b->copy_ns_per_byte};
    const struct sl_tape *tape = &b->arms[ARM_ONE].medians[0],
                         *all = b->arms[exact ? ARM_ALL_EXACT : ARM_ALL].medians;
    for (uint32_t i = 0; i < tape->n; i++) {
        const struct sl_tape_event *event = &tape->events[i];
        if (event->part == SL_TAPE_STAGE)
            chunk_ns[one.n_chunks++] = event->ns;
        else if (i + 1 == tape->n)
            one.head_ns = event->ns;
        else
            one.embed_ns += event->ns / g->prompt_tokens;
    }
    if (!b->arms[ARM_ALL].world)
        return one;
    one.attention_ns = sl_tape_sum(all, 1, SL_TAPE_ATTENTION);
    one.route_ns = sl_tape_sum(all, 1, SL_TAPE_ROUTE);
    one.experts_ns = sl_tape_sum(all, 1, SL_TAPE_EXPERTS);
    one.sum_ns = sl_tape_sum(all, 1, SL_TAPE_SUM);
    one.pack_ns = sl_tape_sum(all, 1, SL_TAPE_PACK);
    one.back_ns = sl_tape_sum(all, 1, SL_TAPE_BACK);
    return one;
}

/* Bytes of a layer's experts' inputs and outputs, as layout_rows.h packs them. */
static struct sl_layout_model model_of(const struct layout_bench *b, const struct arm *arm)
{
    const struct sl_shape *s = b->shape;
    bool exact = arm->config.combine == SL_COMBINE_EXACT;
    bool integers = sl_pack_kv_dtype(b->pack, "auto") == SL_I8; /* as the experts are */
    double d = s->d_model, kv = (double)sl_dtype_bytes(sl_pack_kv_dtype(b->pack, b->asked->kv));
    return (struct sl_layout_model){.n_layers = s->n_layers,
                                    .n_routed = b->n_routed,
                                    .n_experts = s->n_experts,
                                    .top_k = s->top_k,
                                    .row_bytes = 4 * d,
                                    .kv_row_bytes = 2 * kv * s->n_kv * s->d_head,
                                    .out_bytes = 4 + (integers ? d + 8
                                                      : exact  ? 4 * d
                                                               : 2 * d),
                                    .pair_bytes = 8,
                                    .back_bytes = exact ? 4 * d : 2 * d,
                                    .exact = exact};
}

/* ---- rows ---- */

static double waited_ns(const struct arm *arm)
{
    double sum = 0;
    for (uint32_t k = 0; k < arm->config.n_nodes; k++)
        for (uint32_t i = 0; i < arm->medians[k].n; i++)
            if (arm->medians[k].events[i].kind == SL_TAPE_TAKE)
                sum += arm->medians[k].events[i].ns;
    return sum / arm->config.n_nodes;
}

static sl_status add_row(struct layout_bench *b, const struct layout_group *g, int kind, uint32_t delay_us,
                         struct sl_err *err)
{
    static const int arm_of[SL_ROW_KINDS] = {ARM_LAYERS, ARM_NODE, ARM_EXACT};
    const struct arm *arm = &b->arms[g->n_nodes == 1 ? ARM_ONE : arm_of[kind]];
    double gbit = b->asked->gbit, chunk_ns[CHUNKS_MOST];
    struct sl_layout_net net = {delay_us * 1e3, gbit > 0 ? 8 / gbit : 0}, none = {0, 0};
    struct sl_layout_played played, ideal;
    if (!arm->world || b->report.n_rows == SL_LAYOUT_ROWS_MAX)
        return SL_OK;
    if (!sl_layout_play(arm->medians, arm->config.n_nodes, &net, &played) ||
        !sl_layout_play(arm->medians, arm->config.n_nodes, &none, &ideal))
        return sl_fail(err, SL_E_INTERNAL, "what %u nodes did cannot be played; report this", g->n_nodes);
    struct sl_layout_one one = one_of(b, g, kind == SL_ROW_EXPERTS_EXACT, chunk_ns);
    struct sl_layout_model model = model_of(b, arm);
    double skew = kind == SL_ROW_LAYERS ? 1 : sl_tape_skew(arm->medians, arm->config.n_nodes);
    struct sl_layout_foretold foretold =
        kind == SL_ROW_LAYERS
            ? sl_layout_foretell_layers(&model, &one, g->n_nodes, &net)
            : sl_layout_foretell_experts(&model, &one, g->n_nodes, arm->config.rows * g->n_nodes, skew, &net);
    double one_ns = one.head_ns + one.embed_ns * g->prompt_tokens;
    for (uint32_t i = 0; i < one.n_chunks; i++)
        one_ns += chunk_ns[i];
    struct sl_layout_row *row = &b->report.rows[b->report.n_rows++];
    *row = (struct sl_layout_row){
        .kind = (enum sl_layout_row_kind)kind,
        .n_nodes = g->n_nodes,
        .delay_us = delay_us,
        .prompt_tokens = g->prompt_tokens,
        .n_chunks = one.n_chunks,
        .real = g->real,
        .latency_ms = (g->real ? sl_median(arm->latency_ns, b->asked->rounds) : played.latency_ns) / 1e6,
        .foretold_ms = foretold.latency_ns / 1e6,
        .ideal_ms = ideal.latency_ns / 1e6,
        .waited_ms = (g->real ? waited_ns(arm) : played.waited_ns) / 1e6,
        .bytes = played.bytes,
        .foretold_bytes = foretold.bytes,
        .skew = skew,
        .one_ms = one_ns / 1e6,
        .same_bits = arm->digest == b->arms[ARM_ONE].digest,
        .wants_bits = kind != SL_ROW_EXPERTS_NODE};
    for (int part = 0; part < SL_TAPE_PARTS; part++)
        row->part_ms[part] = sl_tape_sum(arm->medians, arm->config.n_nodes, (enum sl_tape_part)part) /
                             arm->config.n_nodes / 1e6;
    return SL_OK;
}

static sl_status measure(struct layout_bench *b, const struct layout_group *g, struct sl_err *err)
{
    sl_status status = open_arms(b, g, err);
    if (status == SL_OK)
        status = run_rounds(b, err);
    if (status == SL_OK)
        status = take_medians(b, err);
    uint32_t n_delays = g->real || g->n_nodes == 1 ? 1 : b->n_delays;
    for (uint32_t i = 0; status == SL_OK && i < n_delays; i++)
        for (int kind = 0; status == SL_OK && kind < (g->n_nodes == 1 ? 1 : SL_ROW_KINDS); kind++)
            status = add_row(b, g, kind, g->real || g->n_nodes == 1 ? g->delay_us : b->delays[i], err);
    close_arms(b);
    return status;
}

/* ---- the grid ---- */

/* Rows of a node at once: a chunk, but no more than its share of the prompt. */
static uint32_t share_of(const struct layout_bench *b, uint32_t prompt_tokens, uint32_t n_nodes)
{
    uint32_t share = whole_pages((sl_pages_of(prompt_tokens) + n_nodes - 1) / n_nodes * SL_PAGE);
    return share < b->asked->chunk ? share : b->asked->chunk;
}

static bool is_real(const struct layout_bench *b, uint32_t n_nodes)
{
    if (strcmp(b->asked->clock, "auto") == 0)
        return sl_cpu_threads(0, 1) >= n_nodes;
    return strcmp(b->asked->clock, "real") == 0;
}

static sl_status measure_nodes(struct layout_bench *b, uint32_t n_nodes, uint32_t prompt_tokens,
                               struct sl_err *err)
{
    struct layout_group g = {.n_nodes = n_nodes,
                             .prompt_tokens = prompt_tokens,
                             .share = share_of(b, prompt_tokens, n_nodes),
                             .real = is_real(b, n_nodes)};
    if (!g.real || n_nodes == 1)
        return measure(b, &g, err);
    for (uint32_t i = 0; i < b->n_delays; i++) {
        g.delay_us = b->delays[i];
        SL_TRY(measure(b, &g, err));
    }
    return SL_OK;
}

/* NULL: they have something to do. */
static const char *why_not(const struct layout_bench *b, uint32_t n_nodes, char text[160])
{
    if (n_nodes > b->shape->n_layers)
        snprintf(text, 160, "%u nodes: the model has %u layers, so a stage would have none", n_nodes,
                 b->shape->n_layers);
    else if (b->n_routed > 0 && n_nodes > b->shape->n_experts)
        snprintf(text, 160, "%u nodes: the model has %u experts a layer, so a node would have none", n_nodes,
                 b->shape->n_experts);
    else
        return NULL;
    return text;
}

static void leave_out(struct layout_bench *b, const char *why)
{
    if (b->report.n_left_out < SL_LAYOUT_REASONS_MAX)
        snprintf(b->report.left_out[b->report.n_left_out++], sizeof b->report.left_out[0], "%s", why);
}

/* What stays of the list; SL_E_CONFIG: nothing. */
static sl_status choose_nodes(struct layout_bench *b, struct sl_err *err)
{
    char text[160];
    uint32_t n = 0;
    if (b->n_routed == 0)
        leave_out(b, "experts on any number of nodes: no layer of this model has routed ones");
    for (uint32_t i = 0; i < b->n_nodes; i++) {
        const char *why = why_not(b, b->nodes[i], text);
        if (why)
            leave_out(b, why);
        else
            b->nodes[n++] = b->nodes[i];
    }
    b->n_nodes = n;
    return n > 0 ? SL_OK
                 : sl_fail(err, SL_E_CONFIG, "nothing is left to measure: %s; say fewer --nodes",
                           b->report.left_out[b->report.n_left_out - 1]);
}

/* And where experts win: a prompt of one chunk cannot fill a pipeline. */
static sl_status measure_grid(struct layout_bench *b, struct sl_err *err)
{
    uint32_t fewest = 0;
    for (uint32_t i = 0; i < b->n_nodes; i++) {
        SL_TRY(measure_nodes(b, b->nodes[i], b->asked->prompt_tokens, err));
        if (b->nodes[i] > 1 && (fewest == 0 || b->nodes[i] < fewest))
            fewest = b->nodes[i];
    }
    if (fewest > 0 && b->n_routed > 0 && b->asked->prompt_tokens > b->asked->chunk)
        SL_TRY(measure_nodes(b, fewest, b->asked->chunk, err));
    return SL_OK;
}

/* ---- the whole ---- */

/* What sealing and copying cost here, of a frame that is not in the first cache. */
static sl_status measure_carrying(struct layout_bench *b, struct sl_err *err)
{
    enum { BYTES = 1 << 20, TIMES = 9 };
    uint8_t *from = malloc(BYTES), *to = malloc(BYTES);
    double seal[TIMES], copy[TIMES];
    volatile uint64_t sink = 0;
    if (from && to) {
        memset(from, 1, BYTES);
        memset(to, 2, BYTES);
        for (int i = 0; i < TIMES; i++) {
            uint64_t begin_ns = sl_clock_thread_ns();
            sink += sl_xxh3(from, BYTES);
            uint64_t sealed_ns = sl_clock_thread_ns();
            memcpy(to, from, BYTES);
            sink += to[i];
            seal[i] = (double)(sealed_ns - begin_ns) / BYTES;
            copy[i] = (double)(sl_clock_thread_ns() - sealed_ns) / BYTES;
        }
        b->seal_ns_per_byte = sl_median(seal, TIMES);
        b->copy_ns_per_byte = sl_median(copy, TIMES);
    }
    (void)sink;
    bool good = from && to;
    free(from);
    free(to);
    return good ? SL_OK : sl_fail(err, SL_E_NOMEM, "out of memory for a frame");
}

static sl_status check_asked(struct layout_bench *b, struct sl_err *err)
{
    const struct sl_bench_layout *a = b->asked;
    if (!a->model)
        return sl_fail(err, SL_E_USAGE, "say --model PATH");
    SL_TRY(
        sl_bench_numbers(a->nodes, "nodes", 1, SL_LAYOUT_NODES_MAX, b->nodes, LISTS_MAX, &b->n_nodes, err));
    SL_TRY(
        sl_bench_numbers(a->delays, "delay-us", 0, DELAY_MOST_US, b->delays, LISTS_MAX, &b->n_delays, err));
    if (a->chunk % SL_PAGE != 0)
        return sl_fail(err, SL_E_USAGE, "--chunk %u is not whole pages of KV; use a multiple of %d", a->chunk,
                       SL_PAGE);
    if (chunks_of(b, a->prompt_tokens) > CHUNKS_MOST)
        return sl_fail(err, SL_E_USAGE,
                       "a prompt of %u tokens has more than %d chunks of %u; use a larger --chunk",
                       a->prompt_tokens, CHUNKS_MOST, a->chunk);
    return SL_OK;
}

static sl_status open_model(struct layout_bench *b, struct sl_err *err)
{
    SL_TRY(sl_pack_open_any(&b->pack, b->asked->model, err));
    b->shape = sl_pack_shape(b->pack);
    sl_tune_for(b->pack, SL_PROFILE_F32);
    for (uint32_t i = 0; i < b->shape->n_layers; i++)
        b->n_routed += b->shape->is_moe[i];
    if (b->asked->prompt_tokens > b->shape->max_pos)
        return sl_fail(err, SL_E_USAGE,
                       "the model takes %u tokens and the prompt has %u; use a smaller --prompt-tokens",
                       b->shape->max_pos, b->asked->prompt_tokens);
    b->ids = malloc(b->asked->prompt_tokens * sizeof *b->ids);
    if (!b->ids)
        return sl_fail(err, SL_E_NOMEM, "no memory for the prompt");
    for (uint32_t i = 0; i < b->asked->prompt_tokens; i++)
        b->ids[i] = (uint32_t)(sl_rng_at(1, i) % b->shape->vocab);
    b->report.model = b->asked->model;
    b->report.chunk = b->asked->chunk;
    b->report.rounds = b->asked->rounds;
    b->report.gbit = b->asked->gbit;
    b->report.transport = b->asked->transport;
    b->report.n_layers = b->shape->n_layers;
    b->report.n_experts = b->n_routed > 0 ? b->shape->n_experts : 0;
    b->report.top_k = b->n_routed > 0 ? b->shape->top_k : 0;
    return SL_OK;
}

static sl_status tell(const struct layout_bench *b, struct sl_err *err)
{
    if (b->asked->json)
        sl_layout_print_json(&b->report);
    else
        sl_layout_print(&b->report);
    if (b->asked->svg)
        SL_TRY(sl_layout_draw(&b->report, b->asked->svg, err));
    for (uint32_t i = 0; i < b->report.n_rows; i++)
        if (b->report.rows[i].wants_bits && !b->report.rows[i].same_bits)
            return sl_fail(err, SL_E_INTERNAL,
                           "the answer on %u nodes has not the bits of one node; report this",
                           b->report.rows[i].n_nodes);
    return SL_OK;
}

sl_status sl_bench_layout(const struct sl_bench_layout *asked, struct sl_err *err)
{
    struct layout_bench *b = calloc(1, sizeof *b);
    if (!b)
        return sl_fail(err, SL_E_NOMEM, "out of memory");
    b->asked = asked;
    sl_status status = check_asked(b, err);
    if (status == SL_OK)
        status = open_model(b, err);
    if (status == SL_OK)
        status = choose_nodes(b, err);
    if (status == SL_OK)
        status = measure_carrying(b, err);
    if (status == SL_OK)
        status = measure_grid(b, err);
    if (status == SL_OK)
        status = tell(b, err);
    free(b->ids);
    if (b->pack)
        sl_pack_close(b->pack);
    free(b);
    return status;
}
