/* The search of planner.h: every number of stages, each with the chunk that suits it, with decode workers behind the stages or beside
 * them. What fits and carries most is taken; with a rate or targets, what keeps them with the fewest nodes. More nodes only add
 * candidates, so they never make less of a load. */
#include "pipeline/decide/planner.h"
#include <math.h>
#include <string.h>

static const double us = 1e6, most_busy = 0.8 /* of what it can carry, when only a rate is named */,
                    alike = 1.01 /* times to a first token that are as good as each other */;
static const uint32_t chunks[] = {0, SL_MAX_CHUNK_ASKED / 2, SL_MAX_CHUNK_ASKED};

struct site { /* what is asked, in one place */
    const struct sl_planner_model *model;
    const struct sl_planner_node *nodes;
    uint32_t n_nodes;
    const struct sl_planner_load *load;
    const struct sl_planner_wish *wish;
};

struct lack { /* of bytes, in the best cut of the most stages */
    double bytes, most;
    uint32_t n_nodes, node; /* the one that lacks most */
    uint32_t begin, end;
};

struct tables { /* what layers take and hold on each node; those of a node like the one before are its */
    double us[SL_MAX_STAGES][SL_LAYERS_MOST], bytes[SL_MAX_STAGES][SL_LAYERS_MOST];
    struct sl_layers_node nodes[SL_MAX_STAGES];
};

static double tokens_of(const struct sl_planner_load *load)
{
    return ceil(fmax(load->prompt + load->output, load->longest) / SL_PAGE) * SL_PAGE;
}

static double weights_of(const struct sl_planner_model *m, uint32_t i)
{
    return m->layers[i].always_bytes + m->layers[i].expert_bytes + (i == 0 ? m->embed_bytes : 0) +
           (i + 1 == m->n_layers ? m->head_bytes : 0);
}

static double row_bytes_of(const struct sl_planner_wish *wish)
{
    return wish->row_bytes > 0 ? wish->row_bytes : sizeof(float);
}

static double buffers_of(const struct site *s, uint32_t max_rows)
{
    return max_rows *
           (s->model->scratch_row_bytes + SL_ORDER_SLOTS * s->model->d_model * row_bytes_of(s->wish));
}

/* What a layer takes of a load: chunks of a prompt, or the steps that decode it. */
typedef double layer_us_fn(const struct site *s, const struct sl_cost *layer, uint32_t rows);

static double prefill_us(const struct site *s, const struct sl_cost *layer, uint32_t rows)
{
    double n = s->load->prompt, n_chunks = fmax(1, ceil(n / rows)), of_chunk = fmin(n, rows);
    return layer->us[SL_COST_E] + sl_cost_work(layer, 0, n) +
           n_chunks * (layer->us[SL_COST_C] + layer->us[SL_COST_GAMMA] * n / 2 +
                       layer->us[SL_COST_W] * sl_cost_hit(layer->hit, of_chunk));
}

static double decode_us(const struct site *s, const struct sl_cost *layer, uint32_t rows)
{
    double pos = s->load->prompt + s->load->output / 2;
    struct sl_cost_chunk step = {
        .pos = rows * pos, .rows = rows, .pairs = rows * (2 * pos + 1), .wanted = rows};
    return sl_cost_of(layer, &step);
}

/* Layers over n nodes from `first` on. kv_tokens: that each layer holds there. Returns whether they fit. */
static bool cut(const struct site *s, uint32_t first, uint32_t n, layer_us_fn *layer_us, uint32_t rows,
                double kv_tokens, double buffers, uint32_t *begin, struct lack *lack)
{
    struct tables t;
    t.nodes[0] = (struct sl_layers_node){.room = 0};
    const struct sl_planner_model *m = s->model;
    for (uint32_t k = 0; k < n; k++) {
        const struct sl_planner_node *node = &s->nodes[first + k];
        t.nodes[k] = (struct sl_layers_node){t.us[k], t.bytes[k], node->memory_bytes - buffers};
        if (k > 0 && memcmp(node, node - 1, sizeof *node) == 0) {
            t.nodes[k] = t.nodes[k - 1];
            continue;
        }
        for (uint32_t i = 0; i < m->n_layers; i++) {
            struct sl_cost layer;
            sl_planner_layer_cost(&layer, m, i, node, s->wish);
            t.us[k][i] = layer_us(s, &layer, rows);
            t.bytes[k][i] = weights_of(m, i) + kv_tokens * m->layers[i].kv_bytes;
        }
    }
    bool fits = sl_layers_cut(begin, m->n_layers, t.nodes, n);
    *lack = (struct lack){.n_nodes = n};
    for (uint32_t k = 0; !fits && k < n; k++) {
        double bytes = sl_layers_sum(t.nodes[k].bytes, begin[k], begin[k + 1]) - t.nodes[k].room;
        lack->bytes += fmax(bytes, 0);
        if (bytes > lack->most) {
            lack->most = bytes;
            lack->node = first + k;
            lack->begin = begin[k];
            lack->end = begin[k + 1];
        }
    }
    return fits;
}

/* ---- the stages ---- */

static double kv_of(const struct sl_planner_model *m, uint32_t begin, uint32_t end)
{
    double sum = 0;
    for (uint32_t i = begin; i < end; i++)
        sum += m->layers[i].kv_bytes;
    return sum;
}

/* copies: KV pools that lie on each node. */
static void weigh(struct sl_forecast *f, const struct site *s, uint32_t copies)
{
    f->kv_tokens = UINT32_MAX;
    for (uint32_t k = 0; k < f->n_stages; k++) {
        struct sl_planner_stage *stage = &f->stages[k];
        stage->weight_bytes = 0;
        for (uint32_t i = f->begin[k]; i < f->begin[k + 1]; i++)
            stage->weight_bytes += weights_of(s->model, i);
        stage->buffer_bytes = buffers_of(s, f->max_rows);
        stage->room_bytes = s->nodes[stage->node].memory_bytes;
        double kv = copies * kv_of(s->model, f->begin[k], f->begin[k + 1]),
               left = stage->room_bytes - stage->weight_bytes - stage->buffer_bytes;
        if (kv > 0)
            f->kv_tokens = fmin(f->kv_tokens, floor(left / kv / SL_PAGE) * SL_PAGE);
    }
    for (uint32_t k = 0; k < f->n_stages; k++)
        f->stages[k].kv_bytes = f->kv_tokens * copies * kv_of(s->model, f->begin[k], f->begin[k + 1]);
}

/* Each stage's time for a prompt among many, with chunks as full as the budget lets them be; and each link's. */
static double request_us(struct sl_forecast *f, const struct site *s, double *slowest_us, double *link_us)
{
    double n = s->load->prompt, chunk_us = sl_budget_work_us(&f->budget, 0, (uint32_t)n),
           n_chunks = (chunk_us - sl_cost_work(&f->budget.cost, 0, n)) /
                      fmax(sl_cost_overhead(&f->budget.cost, n / 2), 1e-9);
    *slowest_us = *link_us = 0;
    for (uint32_t k = 0; k < f->n_stages; k++) {
        struct sl_planner_stage *stage = &f->stages[k];
        const struct sl_planner_node *node = &s->nodes[stage->node];
        stage->work_us = stage->cost.us[SL_COST_E] + sl_cost_work(&stage->cost, 0, n) +
                         n_chunks * sl_cost_overhead(&stage->cost, n / 2);
        *slowest_us = fmax(*slowest_us, stage->work_us);
        double bytes = n * (kv_of(s->model, f->begin[k], f->begin[k + 1]) +
                            (k + 1 < f->n_stages ? s->model->d_model * f->row_bytes : 0));
        if (node->link_speed > 0 && (k + 1 < f->n_stages || s->load->output > 0))
            *link_us = fmax(*link_us, us * bytes / node->link_speed);
    }
    return fmax(*slowest_us, *link_us);
}

/* Where the time of one prompt goes, as the slowest stage sees it. */
static void find_bound(struct sl_forecast *f, const struct site *s, double link_us)
{
    uint32_t slowest = 0;
    double hops_us = 0;
    for (uint32_t k = 0; k < f->n_stages; k++) {
        slowest = f->stages[k].work_us > f->stages[slowest].work_us ? k : slowest;
        hops_us += k + 1 < f->n_stages ? f->hop_us : 0;
    }
    const struct sl_planner_stage *stage = &f->stages[slowest];
    double compute = sl_cost_work(&stage->cost, 0, s->load->prompt),
           memory = fmax(fmin(stage->work_us, f->ttft_us) - compute, 0), all = fmax(f->ttft_us, 1e-9),
           link = hops_us + fmax(link_us - stage->work_us, 0);
    f->shares[SL_BOUND_COMPUTE] = fmin(compute / all, 1);
    f->shares[SL_BOUND_MEMORY] = fmin(memory / all, 1 - f->shares[SL_BOUND_COMPUTE]);
    double left = 1 - f->shares[SL_BOUND_COMPUTE] - f->shares[SL_BOUND_MEMORY];
    f->shares[SL_BOUND_LINK] = fmin(link / all, left);
    f->shares[SL_BOUND_BUBBLE] = left - f->shares[SL_BOUND_LINK];
    f->bound = SL_BOUND_COMPUTE;
    for (int b = 0; b < SL_BOUNDS; b++)
        if (f->shares[b] > f->shares[f->bound])
            f->bound = (enum sl_planner_bound)b;
}

static void budget(struct sl_forecast *f, const struct site *s)
{
    struct sl_cost costs[SL_MAX_STAGES];
    struct sl_pace pace = {.hops_us = 0};
    struct sl_budget_wish wish = {.chunk_us = s->wish->chunk_us, .by_rows = f->chunk_rows > 0};
    for (uint32_t k = 0; k < f->n_stages; k++) {
        costs[k] = f->stages[k].cost;
        pace.hops_us += s->nodes[f->stages[k].node].link_us;
    }
    pace.hops_us += s->nodes[f->stages[0].node].link_us;
    sl_budget_make(&f->budget, costs, f->n_stages, f->max_rows, &pace, &wish);
}

/* The stages with their chunk; false: they do not fit. */
static bool make_stages(struct sl_forecast *f, const struct site *s, uint32_t n_stages, uint32_t chunk_rows,
                        uint32_t copies, struct lack *lack)
{
    double slowest_us, link_us;
    uint32_t longest = (uint32_t)ceil(s->load->prompt);
    *f = (struct sl_forecast){.n_stages = n_stages,
                              .n_nodes = n_stages,
                              .chunk_rows = chunk_rows,
                              .row_bytes = row_bytes_of(s->wish),
                              .max_rows = chunk_rows ? chunk_rows : SL_MAX_CHUNK};
    bool there = s->wish->begin && s->wish->n_stages == n_stages;
    if (there)
        memcpy(f->begin, s->wish->begin, (n_stages + 1) * sizeof *f->begin);
    else if (!cut(s, 0, n_stages, prefill_us, f->max_rows, copies * tokens_of(s->load),
                  buffers_of(s, f->max_rows), f->begin, lack))
        return false;
    for (uint32_t k = 0; k < n_stages; k++) {
        f->stages[k].node = k;
        sl_planner_stage_cost(&f->stages[k].cost, s->model, f->begin[k], f->begin[k + 1], &s->nodes[k],
                              s->wish);
        if (there && s->wish->costs)
            f->stages[k].cost = s->wish->costs[k];
    }
    weigh(f, s, copies);
    const struct sl_planner_node *first = &s->nodes[0];
    f->hop_us =
        first->link_us +
        (first->link_speed > 0 ? us * f->max_rows * s->model->d_model * f->row_bytes / first->link_speed : 0);
    budget(f, s);
    f->prefill_requests_s = f->requests_s = us / request_us(f, s, &slowest_us, &link_us);
    f->ttft_us = sl_planner_ttft(f, s->model, s->nodes, longest, NULL, NULL);
    find_bound(f, s, link_us);
    return true;
}

/* ---- decode workers ---- */

static double step_us(const struct site *s, const uint32_t *begin, uint32_t first, uint32_t parts,
                      uint32_t running)
{
    uint32_t rows = (running + parts - 1) / parts;
    double sum = 0;
    for (uint32_t j = 0; j < parts; j++) {
        struct sl_cost cost;
        sl_planner_stage_cost(&cost, s->model, begin[j], begin[j + 1], &s->nodes[first + j], s->wish);
        sum += decode_us(s, &cost, rows) + (parts > 1 ? s->nodes[first + j].link_us : 0);
    }
    return sum;
}

/* As many answers as are asked for or, of powers of two, as make most tokens and keep the time of one; no more than have pages. */
static void choose_running(struct sl_planner_decode *d, const struct site *s, const uint32_t *begin,
                           uint32_t first, double pool)
{
    double most = fmax(1, floor(pool / tokens_of(s->load))), best = 0;
    uint32_t low = s->wish->running ? s->wish->running : 1,
             high = s->wish->running ? s->wish->running : SL_MAX_BATCH;
    for (uint32_t asked = low; asked <= high; asked *= 2) {
        uint32_t running = (uint32_t)fmin(asked, most);
        double step = step_us(s, begin, first, d->parts, running);
        bool keeps = s->wish->slo_tpot_us <= 0 || step <= s->wish->slo_tpot_us;
        if (best > 0 && (!keeps || running / step <= best))
            break;
        best = running / step;
        d->running = running;
        d->step_us = step;
    }
    d->tokens_s += us * best;
}

/* One over d->parts nodes from `first` on: its step, and its tokens to those of all; false: it does not fit. */
static bool one_worker(struct sl_planner_decode *d, const struct site *site, uint32_t first, uint32_t copies)
{
    struct sl_planner_wish wish = *site->wish;
    struct site of_steps = *site, *s = &of_steps;
    wish.decodes = wish.whole_last_layer = true;
    of_steps.wish = &wish;
    uint32_t begin[SL_MAX_STAGES + 1], running = s->wish->running ? s->wish->running : SL_DEFAULT_RUNNING;
    struct lack lack;
    double buffers = copies > 1 ? buffers_of(s, SL_MAX_CHUNK) : 0, pool = INFINITY;
    if (!cut(s, first, d->parts, decode_us, (running + d->parts - 1) / d->parts, copies * tokens_of(s->load),
             buffers, begin, &lack))
        return false;
    for (uint32_t j = 0; j < d->parts; j++) {
        double weights = 0, kv = copies * kv_of(s->model, begin[j], begin[j + 1]);
        for (uint32_t i = begin[j]; i < begin[j + 1]; i++)
            weights += weights_of(s->model, i);
        if (kv > 0)
            pool = fmin(pool, (s->nodes[first + j].memory_bytes - buffers - weights) / kv);
    }
    choose_running(d, s, begin, first, pool);
    return true;
}

static bool is_better(const struct sl_forecast *a, const struct sl_forecast *b)
{
    if (a->requests_s != b->requests_s)
        return a->requests_s > b->requests_s;
    return a->n_nodes < b->n_nodes;
}

/* On nodes of their own behind the stages: as many as are of use. */
static bool add_own(struct sl_forecast *f, const struct site *s)
{
    struct sl_forecast best = {.requests_s = 0};
    for (uint32_t parts = 1; parts <= SL_MAX_PARTS && best.requests_s <= 0; parts++) {
        struct sl_forecast with = *f;
        with.decode = (struct sl_planner_decode){.parts = parts};
        while (with.decode.n < SL_MAX_DECODERS && with.n_nodes + parts <= s->n_nodes &&
               (s->wish->n_decoders == 0 || with.decode.n < s->wish->n_decoders) &&
               parts <= s->model->n_layers && one_worker(&with.decode, s, with.n_nodes, 1)) {
            with.n_nodes += parts;
            with.decode.n++;
            with.requests_s = fmin(f->prefill_requests_s, with.decode.tokens_s / s->load->output);
            if ((s->wish->n_decoders == 0 || with.decode.n == s->wish->n_decoders) && is_better(&with, &best))
                best = with;
        }
    }
    if (best.requests_s > 0)
        *f = best;
    return best.requests_s > 0;
}

/* On the nodes of the stages. */
static bool add_beside(struct sl_forecast *f, const struct site *s)
{
    f->decode = (struct sl_planner_decode){.parts = f->n_stages, .beside = true};
    if (f->n_stages > SL_MAX_PARTS || s->wish->n_decoders > 1 || !one_worker(&f->decode, s, 0, 2))
        return false;
    f->decode.n = 1;
    f->requests_s = 1 / (1 / f->prefill_requests_s + s->load->output / f->decode.tokens_s);
    return true;
}

/* ---- the search ---- */

/* The better of two for one number of stages and one place of the decode workers: by a first token, and by what it carries where that
 * is as good. */
static bool suits_better(const struct sl_forecast *a, const struct sl_forecast *b)
{
    if (a->ttft_us * alike < b->ttft_us || b->ttft_us * alike < a->ttft_us)
        return a->ttft_us < b->ttft_us;
    return a->prefill_requests_s > b->prefill_requests_s;
}

static bool best_chunk(struct sl_forecast *f, const struct site *s, uint32_t n_stages, uint32_t copies,
                       struct lack *lack)
{
    uint32_t asked = s->wish->chunk_rows;
    bool any = false;
    for (uint32_t i = 0; i < (asked || s->wish->chunk_us > 0 ? 1 : sizeof chunks / sizeof *chunks); i++) {
        struct sl_forecast with;
        struct lack other;
        if (!make_stages(&with, s, n_stages, asked ? asked : chunks[i], copies, i > 0 ? &other : lack))
            continue;
        if (!any || suits_better(&with, f))
            *f = with;
        any = true;
    }
    return any;
}

/* false: so many stages do not fit. */
static bool best_of(struct sl_forecast *f, const struct site *s, uint32_t n_stages, struct lack *lack)
{
    struct sl_forecast own, beside;
    struct lack other;
    if (s->load->output <= 0)
        return best_chunk(f, s, n_stages, 1, lack);
    bool fits = best_chunk(&own, s, n_stages, 1, lack), has_own = fits && add_own(&own, s),
         has_beside =
             fits && best_chunk(&beside, s, n_stages, 2, has_own ? &other : lack) && add_beside(&beside, s);
    if (has_own && (!has_beside || is_better(&own, &beside)))
        *f = own;
    else if (has_beside)
        *f = beside;
    return has_own || has_beside;
}

static void add_wait(struct sl_forecast *f, const struct sl_planner_load *load)
{
    double busy = load->rate / f->requests_s, service_us = us / f->prefill_requests_s;
    f->wait_us = load->rate <= 0 ? 0 : busy < 1 ? busy / (1 - busy) * service_us / 2 : INFINITY;
}

static bool keeps(const struct sl_forecast *f, const struct site *s)
{
    const struct sl_planner_wish *w = s->wish;
    bool named = w->slo_ttft_us > 0;
    return (s->load->rate <= 0 || s->load->rate <= f->requests_s * (named ? 1 : most_busy)) &&
           (!named || f->ttft_us + f->wait_us <= w->slo_ttft_us) &&
           (w->slo_tpot_us <= 0 || f->decode.step_us <= w->slo_tpot_us);
}

/* With something to keep, the fewest nodes that do; else what carries most. */
static bool is_preferred(const struct sl_forecast *a, const struct sl_forecast *b, const struct site *s)
{
    if (s->load->rate > 0 && a->n_nodes != b->n_nodes)
        return a->n_nodes < b->n_nodes;
    return is_better(a, b);
}

static sl_status fail_room(const struct site *s, const struct lack *lack, struct sl_err *err)
{
    const struct sl_planner_node *node = &s->nodes[lack->node];
    if (lack->bytes <= 0)
        return sl_fail(
            err, SL_E_CONFIG,
            "%s fits %u nodes, but no decode worker fits behind or beside its stages; add nodes, or "
            "name a load without output",
            s->model->name, s->n_nodes);
    return sl_fail(
        err, SL_E_CONFIG,
        "%s with %.0f tokens of KV does not fit %u node%s: %.0f bytes are missing in all, %.0f of them "
        "on %s for layers %u to %u; add nodes or memory",
        s->model->name, tokens_of(s->load), lack->n_nodes, lack->n_nodes == 1 ? "" : "s", lack->bytes,
        lack->most, node->name, lack->begin, lack->end - 1);
}

static sl_status fail_targets(const struct site *s, const struct sl_forecast *fastest,
                              const struct sl_forecast *most, struct sl_err *err)
{
    const struct sl_planner_wish *w = s->wish;
    if (s->load->rate > most->requests_s)
        return sl_fail(err, SL_E_CONFIG,
                       "these nodes carry %.3g requests a second, not %.3g; add nodes or ask for less",
                       most->requests_s, s->load->rate);
    if (w->slo_ttft_us > 0 && fastest->ttft_us > w->slo_ttft_us)
        return sl_fail(err, SL_E_CONFIG,
                       "no cut of these nodes has the first token of %.0f tokens in %.3g ms; the fastest, %u "
                       "stages, takes %.3g ms with nobody else there",
                       s->load->prompt, w->slo_ttft_us / 1000, fastest->n_stages, fastest->ttft_us / 1000);
    if (w->slo_tpot_us > 0 && most->decode.step_us > w->slo_tpot_us)
        return sl_fail(
            err, SL_E_CONFIG,
            "no decode worker of these nodes makes a token in %.3g ms; it takes %.3g ms with %u answers "
            "at once",
            w->slo_tpot_us / 1000, most->decode.step_us / 1000, most->decode.running);
    return sl_fail(
        err, SL_E_CONFIG,
        "no cut of these nodes keeps %.3g requests a second and its targets at once; add nodes or ask for "
        "less of either",
        s->load->rate);
}

static bool is_sane(const struct sl_planner_model *m, uint32_t n_nodes, const struct sl_planner_load *load)
{
    return n_nodes > 0 && n_nodes <= SL_PLANNER_NODES && m->n_layers > 0 && m->n_layers <= SL_LAYERS_MOST &&
           load->prompt >= 1 && load->prompt <= 1 << 26 && load->output >= 0 && load->output <= 1 << 26 &&
           load->longest <= 1 << 27;
}

sl_status sl_planner_try(struct sl_forecast *f, const struct sl_planner_model *model,
                         const struct sl_planner_node *nodes, uint32_t n_nodes, uint32_t n_stages,
                         const struct sl_planner_load *load, const struct sl_planner_wish *wish,
                         struct sl_err *err)
{
    struct site s = {model, nodes, n_nodes, load, wish};
    struct lack lack = {.bytes = 0};
    if (!is_sane(model, n_nodes, load))
        return sl_fail(err, SL_E_CONFIG,
                       "a prompt of %.0f tokens and an answer of %.0f are no load to plan for", load->prompt,
                       load->output);
    if (n_stages == 0 || n_stages > n_nodes || n_stages > model->n_layers || n_stages > SL_MAX_STAGES)
        return sl_fail(err, SL_E_CONFIG, "%u stages do not go over %u nodes and %u layers; ask for fewer",
                       n_stages, n_nodes, model->n_layers);
    if (!best_of(f, &s, n_stages, &lack))
        return fail_room(&s, &lack, err);
    add_wait(f, load);
    return SL_OK;
}

sl_status sl_planner_make(struct sl_forecast *forecast, const struct sl_planner_model *model,
                          const struct sl_planner_node *nodes, uint32_t n_nodes,
                          const struct sl_planner_load *load, const struct sl_planner_wish *wish,
                          struct sl_err *err)
{
    struct site s = {model, nodes, n_nodes, load, wish};
    struct sl_forecast fastest = {.ttft_us = INFINITY}, most = {.requests_s = 0};
    struct sl_err last = {.status = SL_OK};
    uint32_t from = wish->n_stages ? wish->n_stages : 1, to = n_nodes;
    bool any = false, kept = false;
    to = to < model->n_layers ? to : model->n_layers;
    to = wish->n_stages ? wish->n_stages : to < SL_MAX_STAGES ? to : SL_MAX_STAGES;
    for (uint32_t n = from; n <= to; n++) {
        struct sl_forecast f;
        if (sl_planner_try(&f, model, nodes, n_nodes, n, load, wish, &last) != SL_OK)
            continue;
        any = true;
        fastest = f.ttft_us < fastest.ttft_us ? f : fastest;
        most = is_better(&f, &most) ? f : most;
        if (!keeps(&f, &s) || (kept && !is_preferred(&f, forecast, &s)))
            continue;
        *forecast = f;
        kept = true;
    }
    if (!any) {
        if (err)
            *err = last;
        return last.status;
    }
    return kept ? SL_OK : fail_targets(&s, &fastest, &most, err);
}
