/* The arithmetic of online.h. Each change is tried alone, beside what is; gains are of requests a second or of the time to a first
 * token, whichever is more. */
#include "bench/plan/online.h"
#include "base/text.h"
#include "bench/plan/source.h"
#include "node/client/output.h"
#include "pipeline/decide/balance.h"
#include <math.h>
#include <string.h>

static const double worth = 0.02, most_busy = 0.8;

/* ---- what is seen ---- */

static double of_stage(const struct sl_scrape *s, const char *name, uint32_t k, const char *more)
{
    char label[64];
    snprintf(label, sizeof label, "role=\"stage %u\"%s", k, more);
    return sl_scrape_value(s, name, label);
}

static double grown(const struct sl_scrape *before, const struct sl_scrape *now, const char *name)
{
    double was = before ? sl_scrape_sum(before, name) : 0, is = sl_scrape_sum(now, name);
    return is > was ? is - was : 0; /* of NaN: 0 */
}

static sl_status see_stages(struct sl_plan_seen *seen, const struct sl_scrape *now, struct sl_err *err)
{
    static const char *const terms[SL_COST_TERMS] = {"chunk", "position", "row", "pair", "experts", "end"};
    for (uint32_t k = 0; k < SL_MAX_STAGES; k++) {
        double layers = of_stage(now, "sluice_stage_layers", k, ""), numbers[SL_COST_NUMBERS];
        if (!(layers >= 1) || layers > SL_LAYERS_MOST)
            break;
        for (int t = 0; t < SL_COST_TERMS; t++) {
            char of[32];
            snprintf(of, sizeof of, ",of=\"%s\"", terms[t]);
            numbers[t] = 1e6 * of_stage(now, "sluice_stage_cost_seconds", k, of);
        }
        numbers[SL_COST_TERMS] = of_stage(now, "sluice_stage_expert_hit_ratio", k, "");
        if (!sl_cost_take(&seen->costs[k], numbers, SL_COST_NUMBERS) ||
            seen->begin[k] + layers > SL_LAYERS_MOST)
            return sl_fail(err, SL_E_DATA, "the metrics say nothing sensible of what chunks cost on stage %u",
                           k);
        seen->begin[k + 1] = seen->begin[k] + (uint32_t)layers;
        seen->n_stages = k + 1;
    }
    return seen->n_stages
               ? SL_OK
               : sl_fail(err, SL_E_DATA,
                         "these metrics have no stages; give the ops port of a coordinator or of `serve`, of "
                         "this version");
}

static void see_load(struct sl_plan_seen *seen, const struct sl_scrape *before, const struct sl_scrape *now,
                     double seconds)
{
    const struct sl_scrape *from = before;
    double n = grown(from, now, "sluice_requests_total");
    if (n < 1) { /* none has ended between the looks: sizes are those of all */
        from = NULL;
        n = grown(NULL, now, "sluice_requests_total");
    }
    double computed =
        grown(from, now, "sluice_prompt_tokens_total") -
        fmax(sl_scrape_value(now, "sluice_prompt_tokens_total", "source=\"cached\"") -
                 (from ? sl_scrape_value(from, "sluice_prompt_tokens_total", "source=\"cached\"") : 0),
             0);
    seen->prompt = n >= 1 && computed >= n ? computed / n : 0;
    seen->output = n >= 1 ? grown(from, now, "sluice_generation_tokens_total") / n : 0;
    seen->rate = before && seconds > 0 ? grown(before, now, "sluice_requests_total") / seconds : 0;
    seen->asked_tokens_s =
        before && seconds > 0 ? grown(before, now, "sluice_generation_tokens_total") / seconds : 0;
}

sl_status sl_plan_see(struct sl_plan_seen *seen, const struct sl_scrape *before, const struct sl_scrape *now,
                      double seconds, double chunk_us, struct sl_err *err)
{
    *seen = (struct sl_plan_seen){.chunk_us = chunk_us};
    SL_TRY(see_stages(seen, now, err));
    see_load(seen, before, now, seconds);
    double decoders = sl_scrape_value(now, "sluice_decoders", NULL),
           steps = sl_scrape_sum(now, "sluice_decoder_step_seconds"),
           answers = sl_scrape_sum(now, "sluice_decoder_answers");
    if (decoders >= 1 && decoders <= SL_MAX_DECODERS) {
        seen->decoders = (uint32_t)decoders;
        seen->step_us = steps > 0 ? 1e6 * steps / decoders : 0;
        seen->answers = answers > 0 ? answers / decoders : 0;
    }
    return SL_OK;
}

/* ---- what would be ---- */

struct online_trial { /* the pipeline as the planner sees it: each stage a node that was measured */
    struct sl_planner_model model;
    struct sl_planner_node nodes[SL_MAX_STAGES];
    uint32_t n_nodes;
    struct sl_planner_load load;
    struct sl_planner_wish wish;
    struct sl_forecast f;
};

static void make_trial(struct online_trial *t, const struct sl_plan_seen *seen)
{
    uint32_t last = seen->n_stages - 1;
    *t = (struct online_trial){.n_nodes = seen->n_stages,
                               .load = {.prompt = seen->prompt >= 1 ? ceil(seen->prompt) : 2048},
                               .wish = {.n_stages = seen->n_stages,
                                        .begin = seen->begin,
                                        .costs = seen->costs,
                                        .chunk_us = seen->chunk_us}};
    t->model.n_layers = seen->begin[seen->n_stages];
    for (uint32_t i = 0; i < t->model.n_layers; i++)
        t->model.layers[i] = (struct sl_planner_layer){.row_flop = 1, .expert_flop = 1};
    for (uint32_t k = 0; k < seen->n_stages; k++) {
        t->nodes[k] = (struct sl_planner_node){.name = "stage",
                                               .devices = 1,
                                               .memory_bytes = 1e18,
                                               .is_measured = true,
                                               .layer = seen->costs[k]};
        sl_plan_layer_of(&t->nodes[k].layer, seen->begin[k + 1] - seen->begin[k], k == last);
        t->nodes[k].layer.us[SL_COST_E] = seen->costs[last].us[SL_COST_E];
    }
}

static double gain_of(const struct sl_plan_online *o, const struct sl_plan_advice *a)
{
    return fmax(a->requests_s / o->requests_s, o->ttft_us / a->ttft_us) - 1;
}

static void advise(struct sl_plan_online *o, const struct sl_forecast *f, const char *what)
{
    struct sl_plan_advice a = {.ttft_us = f->ttft_us, .requests_s = f->requests_s};
    snprintf(a.what, sizeof a.what, "%s", what);
    if (!(gain_of(o, &a) > worth) || o->n == SL_PLAN_ADVICE)
        return;
    uint32_t i = o->n++;
    for (; i > 0 && gain_of(o, &o->advice[i - 1]) < gain_of(o, &a); i--)
        o->advice[i] = o->advice[i - 1];
    o->advice[i] = a;
}

static void try_cut(struct sl_plan_online *o, const struct online_trial *now)
{
    static struct online_trial t;
    char what[SL_PLAN_ADVICE_TEXT], layers[SL_LAYERS_TEXT];
    t = *now;
    t.wish.begin = NULL;
    if (sl_planner_make(&t.f, &t.model, t.nodes, t.n_nodes, &t.load, &t.wish, NULL) != SL_OK)
        return;
    sl_layers_write(layers, t.f.begin, t.n_nodes);
    snprintf(what, sizeof what, "another cut of the layers (--layers %s)", layers);
    advise(o, &t.f, what);
}

static void try_chunk(struct sl_plan_online *o, const struct online_trial *now)
{
    static struct online_trial t;
    char what[SL_PLAN_ADVICE_TEXT];
    t = *now;
    t.wish.chunk_us = 0;
    if (now->wish.chunk_us <= 0 ||
        sl_planner_make(&t.f, &t.model, t.nodes, t.n_nodes, &t.load, &t.wish, NULL) != SL_OK)
        return;
    if (t.f.chunk_rows)
        snprintf(what, sizeof what, "chunks of %u rows (--chunk %u)", t.f.chunk_rows, t.f.chunk_rows);
    else
        snprintf(what, sizeof what, "chunks of %.3g ms (--chunk-ms; without --slo)",
                 t.f.budget.chunk_us / 1000);
    advise(o, &t.f, what);
}

/* One node more, or one less, like the mean of those that are there. */
static void try_stages(struct sl_plan_online *o, const struct online_trial *now, int more)
{
    static struct online_trial t;
    char what[SL_PLAN_ADVICE_TEXT], layers[SL_LAYERS_TEXT];
    t = *now;
    if (now->n_nodes + (uint32_t)more > t.model.n_layers || now->n_nodes + (uint32_t)more > SL_MAX_STAGES)
        return;
    for (uint32_t k = now->n_nodes; k < now->n_nodes + (uint32_t)more; k++) {
        t.nodes[k] = now->nodes[0];
        for (int term = 0; term < SL_COST_E; term++) {
            double sum = 0;
            for (uint32_t j = 0; j < now->n_nodes; j++)
                sum += now->nodes[j].layer.us[term];
            t.nodes[k].layer.us[term] = sum / now->n_nodes;
        }
    }
    t.n_nodes = t.wish.n_stages = now->n_nodes + (uint32_t)more;
    t.wish.begin = NULL;
    if (sl_planner_make(&t.f, &t.model, t.nodes, t.n_nodes, &t.load, &t.wish, NULL) != SL_OK)
        return;
    sl_layers_write(layers, t.f.begin, t.n_nodes);
    snprintf(what, sizeof what,
             "%u stages, %d more on %s like those that are there (--stages %u --layers %s)", t.n_nodes, more,
             more == 1 ? "a node" : "nodes", t.n_nodes, layers);
    advise(o, &t.f, what);
}

/* As many as make the tokens that were asked for at four fifths of what a worker makes now. */
static uint32_t decoders_for(const struct sl_plan_seen *seen)
{
    double answers = fmax(seen->answers, 1), each = seen->step_us > 0 ? 1e6 * answers / seen->step_us : 0;
    if (each <= 0 || seen->asked_tokens_s <= 0)
        return seen->decoders;
    return (uint32_t)fmin(fmax(ceil(seen->asked_tokens_s / (most_busy * each)), 1), SL_MAX_DECODERS);
}

static void find_slow(struct sl_plan_online *o)
{
    double us[SL_MAX_STAGES], of_chunk[SL_MAX_STAGES];
    struct sl_cost_chunk usual = {0};
    const struct sl_plan_seen *s = &o->seen;
    sl_cost_add(&usual, 1024, 512);
    for (uint32_t k = 0; k < s->n_stages; k++)
        of_chunk[k] = sl_cost_of(&s->costs[k], &usual);
    sl_balance_layer_us(us, &(struct sl_balance_stages){s->n_stages, s->begin, of_chunk});
    for (uint32_t k = 0; k < s->n_stages && s->n_stages > 1; k++) {
        double neighbour = fmax(k > 0 ? us[k - 1] : 0, k + 1 < s->n_stages ? us[k + 1] : 0),
               slower = neighbour > 0 ? us[k] / neighbour - 1 : 0;
        if (slower > o->slower) {
            o->slower = slower;
            o->slow = k + 1;
        }
    }
}

sl_status sl_plan_advise(struct sl_plan_online *o, struct sl_err *err)
{
    static struct online_trial now;
    o->n = 0;
    make_trial(&now, &o->seen);
    SL_TRY(sl_planner_make(&now.f, &now.model, now.nodes, now.n_nodes, &now.load, &now.wish, err));
    o->ttft_us = now.f.ttft_us;
    o->requests_s = now.f.requests_s;
    find_slow(o);
    try_cut(o, &now);
    try_chunk(o, &now);
    try_stages(o, &now, 1);
    try_stages(o, &now, (int)now.n_nodes);
    o->decoders = decoders_for(&o->seen);
    return SL_OK;
}

/* ---- what is said ---- */

void sl_plan_online_text(const struct sl_plan_online *o, FILE *to)
{
    const struct sl_plan_seen *s = &o->seen;
    char layers[SL_LAYERS_TEXT];
    sl_layers_write(layers, s->begin, s->n_stages);
    fprintf(to, "%u stages with %s layers", s->n_stages, layers);
    if (s->chunk_us > 0)
        fprintf(to, ", chunks of %.3g ms", s->chunk_us / 1000);
    fprintf(to, "; %.3g requests/s, of which each has %.0f tokens to prefill and %.0f to make\n", s->rate,
            s->prompt, s->output);
    fprintf(to, "  as it is: first token of such a prompt after %.4g ms, %.4g requests/s at most",
            o->ttft_us / 1000, o->requests_s);
    if (s->rate > 0)
        fprintf(to, " (%.0f %% are asked for)", 100 * s->rate / o->requests_s);
    fputc('\n', to);
    if (o->slow && o->slower > worth)
        fprintf(to, "  a layer takes %.0f %% longer on stage %u than on its neighbours\n", 100 * o->slower,
                o->slow - 1);
    for (uint32_t i = 0; i < o->n; i++)
        fprintf(to, "  %s: first token after %.4g ms (%+.1f %%), %.4g requests/s (%+.1f %%)\n",
                o->advice[i].what, o->advice[i].ttft_us / 1000, 100 * (o->advice[i].ttft_us / o->ttft_us - 1),
                o->advice[i].requests_s, 100 * (o->advice[i].requests_s / o->requests_s - 1));
    if (s->decoders && o->decoders != s->decoders && s->asked_tokens_s > 0)
        fprintf(
            to,
            "  %u decode worker%s in place of %u: %.3g tokens/s are asked for, and a step takes %.3g ms\n",
            o->decoders, o->decoders == 1 ? "" : "s", s->decoders, s->asked_tokens_s, s->step_us / 1000);
    else if (o->n == 0)
        fputs("  nothing that could be changed is worth it\n", to);
}

void sl_plan_online_json(const struct sl_plan_online *o, FILE *to)
{
    const struct sl_plan_seen *s = &o->seen;
    fputs("{\"layers\": [", to);
    for (uint32_t k = 0; k < s->n_stages; k++)
        fprintf(to, "%s%u", k ? ", " : "", s->begin[k + 1] - s->begin[k]);
    fprintf(to,
            "], \"chunk_ms\": %.9g, \"rate\": %.9g, \"prompt\": %.9g, \"output\": %.9g,\n \"ttft_ms\": %.9g, "
            "\"requests_s\": %.9g, \"slow_stage\": ",
            s->chunk_us / 1000, s->rate, s->prompt, s->output, o->ttft_us / 1000, o->requests_s);
    if (o->slow)
        fprintf(to, "%u", o->slow - 1);
    else
        fputs("null", to);
    fprintf(to, ", \"slower\": %.6g, \"decoders\": %u, \"decoders_wanted\": %u,\n \"advice\": [", o->slower,
            s->decoders, o->decoders);
    for (uint32_t i = 0; i < o->n; i++) {
        fputs(i ? ",\n  {\"what\": " : "\n  {\"what\": ", to);
        sl_json_string(to, o->advice[i].what, strlen(o->advice[i].what));
        fprintf(to, ", \"ttft_ms\": %.9g, \"requests_s\": %.9g}", o->advice[i].ttft_us / 1000,
                o->advice[i].requests_s);
    }
    fputs("]}\n", to);
}
