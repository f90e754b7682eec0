/* The tables of report.h, and how a person reads them. */
#include "bench/plan/report.h"
#include "pipeline/decide/layers.h"
#include <inttypes.h>
#include <math.h>
#include <string.h>

static const double even = 0.02; /* of a time: less is no difference */

/* ---- what is said ---- */

static void add_rows(struct sl_plan_report *r)
{
    uint32_t most = r->n_nodes < r->model.n_layers ? r->n_nodes : r->model.n_layers, step = 1;
    most = most < SL_MAX_STAGES ? most : SL_MAX_STAGES;
    for (uint32_t n = 1; n <= most && r->n_rows < SL_PLAN_ROWS; n = n + step) {
        struct sl_plan_row *row = &r->rows[r->n_rows++];
        struct sl_forecast f;
        *row = (struct sl_plan_row){.n = n};
        row->fits = sl_planner_try(&f, &r->model, r->nodes, r->n_nodes, n, &r->load, &r->wish, NULL) == SL_OK;
        if (row->fits) {
            row->ttft_us = f.ttft_us;
            row->requests_s = f.requests_s;
        }
        sl_planner_experts(&row->experts, &r->model, &r->nodes[0], n, r->load.prompt);
        step = n < 8 ? 1 : n < 16 ? 2 : 4;
        if (n < most && n + step > most)
            step = most - n;
    }
}

static void add_lengths(struct sl_plan_report *r)
{
    uint32_t longest = r->model.context ? r->model.context : UINT32_MAX;
    for (uint32_t n = 512; n <= longest && n <= r->forecast.kv_tokens && r->n_lengths < SL_PLAN_LENGTHS;
         n *= 4) {
        r->lengths[r->n_lengths].tokens = n;
        r->lengths[r->n_lengths++].ttft_us =
            sl_planner_ttft(&r->forecast, &r->model, r->nodes, n, NULL, NULL);
    }
}

sl_status sl_plan_report_fill(struct sl_plan_report *r, struct sl_err *err)
{
    SL_TRY(sl_planner_make(&r->forecast, &r->model, r->nodes, r->n_nodes, &r->load, &r->wish, err));
    r->n_rows = r->n_lengths = 0;
    add_rows(r);
    add_lengths(r);
    r->one_node_us = sl_planner_one_node(&r->forecast, &r->model, r->nodes, (uint32_t)ceil(r->load.prompt));
    return SL_OK;
}

bool sl_plan_report_tells_rates(const struct sl_plan_report *r, uint32_t i)
{
    for (uint32_t before = 0; before < i; before++)
        if (r->nodes[before].rates == r->nodes[i].rates &&
            strcmp(r->nodes[before].name, r->nodes[i].name) == 0)
            return false;
    return r->nodes[i].rates != NULL && !r->nodes[i].is_measured;
}

/* ---- text ---- */

static double ms(double us)
{
    return us / 1000;
}

static double gb(double bytes)
{
    return bytes / 1e9;
}

static void print_chunk(const struct sl_forecast *f, FILE *to)
{
    if (f->chunk_rows)
        fprintf(to, "chunks of %u rows (--chunk %u)", f->chunk_rows, f->chunk_rows);
    else
        fprintf(to, "chunks of %.4g ms, at most %u rows", ms(f->budget.chunk_us), f->max_rows);
}

static void print_plan(const struct sl_plan_report *r, FILE *to)
{
    const struct sl_forecast *f = &r->forecast;
    fprintf(to, "plan: %u stage%s on %u of %u node%s, ", f->n_stages, f->n_stages == 1 ? "" : "s", f->n_nodes,
            r->n_nodes, r->n_nodes == 1 ? "" : "s");
    print_chunk(f, to);
    if (r->load.output > 0)
        fprintf(to, ", %u decode worker%s%s", f->decode.n, f->decode.n == 1 ? "" : "s",
                f->decode.beside ? " beside the stages" : "");
    if (r->load.output > 0 && !f->decode.beside && f->decode.parts > 1)
        fprintf(to, " of %u nodes each (--decode-stages %u)", f->decode.parts, f->decode.parts);
    fprintf(to, "\n  first token of %.0f tokens after %.4g ms", r->load.prompt, ms(f->ttft_us));
    if (f->wait_us > 0)
        fprintf(to, ", and %.4g ms of waiting at %.4g requests/s", ms(f->wait_us), r->load.rate);
    fprintf(to, "\n  %.4g requests/s at most (%.4g prompt tokens/s)\n", f->requests_s,
            f->requests_s * r->load.prompt);
    if (r->load.output > 0)
        fprintf(to,
                "  a token every %.4g ms with %u answers on a worker (--max-running), %.4g tokens/s in all\n",
                ms(f->decode.step_us), f->decode.running, f->decode.tokens_s);
    fprintf(to, "  bound by %s: of the time to the first token", sl_planner_bound_name(f->bound));
    for (int b = 0; b < SL_BOUNDS; b++)
        fprintf(to, "%s %s %.1f %%", b ? "," : "", sl_planner_bound_name((enum sl_planner_bound)b),
                100 * f->shares[b]);
    fprintf(to, "\n  KV pool: %.0f tokens on the weakest stage\n", f->kv_tokens);
}

static void print_stages(const struct sl_plan_report *r, FILE *to)
{
    const struct sl_forecast *f = &r->forecast;
    fputs("\n  stage node             layers   weights        KV   buffers   of GB   a prompt's work\n", to);
    for (uint32_t k = 0; k < f->n_stages; k++) {
        const struct sl_planner_stage *s = &f->stages[k];
        char layers[24];
        snprintf(layers, sizeof layers, "%u-%u", f->begin[k], f->begin[k + 1] - 1);
        fprintf(to, "  %5u %-16.16s %7s %9.2f %9.2f %9.2f %7.4g %14.4g ms\n", k, r->nodes[s->node].name,
                layers, gb(s->weight_bytes), gb(s->kv_bytes), gb(s->buffer_bytes), gb(s->room_bytes),
                ms(s->work_us));
    }
    char cut[SL_LAYERS_TEXT];
    sl_layers_write(cut, f->begin, f->n_stages);
    fprintf(to, "  as options: --stages %u --layers %s\n", f->n_stages, cut);
}

static void print_rows(const struct sl_plan_report *r, FILE *to)
{
    bool experts = r->model.n_experts > 0;
    fprintf(to, "\n  %-7s %12s %11s", "stages", "first token", "requests/s");
    if (experts)
        fprintf(
            to,
            " | experts over as many nodes: first token, overlapped, attention on one device; exchange of a layer");
    fputc('\n', to);
    for (uint32_t i = 0; i < r->n_rows; i++) {
        const struct sl_plan_row *row = &r->rows[i];
        if (row->fits)
            fprintf(to, "  %-7u %9.4g ms %11.4g", row->n, ms(row->ttft_us), row->requests_s);
        else
            fprintf(to, "  %-7u %12s %11s", row->n, "no room", "-");
        if (experts)
            fprintf(to, " | %9.4g ms %9.4g ms %9.4g ms %9.4g us", ms(row->experts.ttft_us),
                    ms(row->experts.overlapped_us), ms(row->experts.one_device_us), row->experts.exchange_us);
        fputc('\n', to);
    }
}

static void print_dense(const struct sl_plan_report *r, FILE *to)
{
    const struct sl_forecast *f = &r->forecast;
    fprintf(
        to,
        "\n  %s is dense: its prefill is bound by arithmetic, and no experts need exchanging. One node with the FLOP/s "
        "of all %u stages would take %.4g ms, this pipeline %.4g ms (%.3f of it): the pipeline holds what one "
        "node cannot, and does not make prefill faster\n",
        r->model.name, f->n_stages, ms(r->one_node_us), ms(f->ttft_us), f->ttft_us / r->one_node_us);
}

static void print_verdict(const struct sl_plan_report *r, FILE *to)
{
    const struct sl_planner_experts *e = NULL;
    const struct sl_forecast *f = &r->forecast;
    for (uint32_t i = 0; i < r->n_rows; i++)
        if (r->rows[i].n == f->n_stages)
            e = &r->rows[i].experts;
    if (!e || f->n_stages < 2)
        return;
    double gain = e->ttft_us / f->ttft_us;
    fprintf(
        to,
        "\n  layers over %u nodes: %.4g ms; experts over as many: %.4g ms at best (%.2f times), of which %.4g ms "
        "are exchange %s; %.3g GB cross the links, here %.3g\n",
        f->n_stages, ms(f->ttft_us), ms(e->ttft_us), gain, ms(e->exchange_us * r->model.n_layers),
        e->from_table ? "as measured elsewhere" : "by bytes and latency", gb(e->bytes),
        gb(r->load.prompt * r->model.d_model * f->row_bytes * (f->n_stages - 1)));
    if (gain < 1 - even)
        fprintf(
            to,
            "  one prompt that is alone is faster with its experts sharded, if attention is split evenly and "
            "experts are loaded alike\n");
}

void sl_plan_report_text(const struct sl_plan_report *r, FILE *to)
{
    fprintf(to, "%s", r->model.name);
    if (r->parameters > 0)
        fprintf(to, ", %.4g billion parameters", r->parameters / 1e9);
    fprintf(to, ", %u layers; %.0f tokens in, %.0f out; %s\n", r->model.n_layers, r->load.prompt,
            r->load.output, r->assumed);
    for (uint32_t i = 0; i < r->n_nodes; i++)
        if (sl_plan_report_tells_rates(r, i))
            fprintf(to, "rates of %s: %s\n", r->nodes[i].name, r->nodes[i].rates);
    print_plan(r, to);
    print_stages(r, to);
    fputs("\n  tokens of a prompt     ", to);
    for (uint32_t i = 0; i < r->n_lengths; i++)
        fprintf(to, "%12u", r->lengths[i].tokens);
    fputs("\n  first token after (ms) ", to);
    for (uint32_t i = 0; i < r->n_lengths; i++)
        fprintf(to, "%12.4g", ms(r->lengths[i].ttft_us));
    fputc('\n', to);
    print_rows(r, to);
    if (r->model.n_experts == 0)
        print_dense(r, to);
    else
        print_verdict(r, to);
}
