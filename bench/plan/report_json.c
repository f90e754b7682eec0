/* The report as one JSON object: the same numbers as the text. Times are ms, sizes bytes. */
#include "bench/plan/report.h"
#include "node/client/output.h"
#include <math.h>
#include <string.h>

static double ms(double us)
{
    return us / 1000;
}

static void put(FILE *to, const char *comma, const char *name, double value)
{
    if (isfinite(value))
        fprintf(to, "%s\"%s\": %.9g", comma, name, value);
    else
        fprintf(to, "%s\"%s\": null", comma, name);
}

static void put_text(FILE *to, const char *comma, const char *name, const char *text)
{
    fprintf(to, "%s\"%s\": ", comma, name);
    sl_json_string(to, text, strlen(text));
}

static void put_stages(const struct sl_plan_report *r, FILE *to)
{
    const struct sl_forecast *f = &r->forecast;
    fputs(",\n \"stages\": [", to);
    for (uint32_t k = 0; k < f->n_stages; k++) {
        const struct sl_planner_stage *s = &f->stages[k];
        fprintf(to, "%s\n  {\"stage\": %u, \"layers\": [%u, %u]", k ? "," : "", k, f->begin[k],
                f->begin[k + 1]);
        put_text(to, ", ", "node", r->nodes[s->node].name);
        put(to, ", ", "weight_bytes", s->weight_bytes);
        put(to, ", ", "kv_bytes", s->kv_bytes);
        put(to, ", ", "buffer_bytes", s->buffer_bytes);
        put(to, ", ", "room_bytes", s->room_bytes);
        put(to, ", ", "work_ms", ms(s->work_us));
        fputs("}", to);
    }
    fputs("]", to);
}

static void put_rows(const struct sl_plan_report *r, FILE *to)
{
    fputs(",\n \"over_stages\": [", to);
    for (uint32_t i = 0; i < r->n_rows; i++) {
        const struct sl_plan_row *row = &r->rows[i];
        fprintf(to, "%s\n  {\"stages\": %u, \"fits\": %s", i ? "," : "", row->n,
                row->fits ? "true" : "false");
        put(to, ", ", "ttft_ms", row->fits ? ms(row->ttft_us) : NAN);
        put(to, ", ", "requests_s", row->fits ? row->requests_s : NAN);
        if (r->model.n_experts > 0) {
            put(to, ", \"experts\": {", "ttft_ms", ms(row->experts.ttft_us));
            put(to, ", ", "overlapped_ms", ms(row->experts.overlapped_us));
            put(to, ", ", "one_device_ms", ms(row->experts.one_device_us));
            put(to, ", ", "exchange_us", row->experts.exchange_us);
            put(to, ", ", "bytes", row->experts.bytes);
            put(to, ", ", "node_bytes", row->experts.node_bytes);
            fprintf(to, ", \"from_table\": %s}", row->experts.from_table ? "true" : "false");
        }
        fputs("}", to);
    }
    fputs("]", to);
}

static void put_lengths(const struct sl_plan_report *r, FILE *to)
{
    fputs(",\n \"over_lengths\": [", to);
    for (uint32_t i = 0; i < r->n_lengths; i++) {
        fprintf(to, "%s{\"tokens\": %u", i ? ", " : "", r->lengths[i].tokens);
        put(to, ", ", "ttft_ms", ms(r->lengths[i].ttft_us));
        fputs("}", to);
    }
    fputs("]", to);
}

static void put_rates(const struct sl_plan_report *r, FILE *to)
{
    const char *comma = "";
    fputs(",\n \"rates\": [", to);
    for (uint32_t i = 0; i < r->n_nodes; i++) {
        if (!sl_plan_report_tells_rates(r, i))
            continue;
        fputs(comma, to);
        put_text(to, "{", "of", r->nodes[i].name);
        put_text(to, ", ", "from", r->nodes[i].rates);
        fputs("}", to);
        comma = ", ";
    }
    fputs("]", to);
}

void sl_plan_report_json(const struct sl_plan_report *r, FILE *to)
{
    const struct sl_forecast *f = &r->forecast;
    put_text(to, "{", "model", r->model.name);
    put(to, ", ", "parameters", r->parameters > 0 ? r->parameters : NAN);
    fprintf(to, ", \"layers\": %u, \"dense\": %s", r->model.n_layers, r->model.n_experts ? "false" : "true");
    put_text(to, ",\n ", "assumed", r->assumed);
    put_rates(r, to);
    put(to, ",\n \"load\": {", "prompt", r->load.prompt);
    put(to, ", ", "output", r->load.output);
    put(to, ", ", "rate", r->load.rate);
    fprintf(to, "},\n \"n_stages\": %u, \"nodes\": %u, \"of_nodes\": %u", f->n_stages, f->n_nodes,
            r->n_nodes);
    put(to, ", ", "chunk_rows", f->chunk_rows);
    put(to, ", ", "chunk_ms", ms(f->budget.chunk_us));
    put(to, ", ", "kv_tokens", f->kv_tokens);
    put(to, ",\n ", "ttft_ms", ms(f->ttft_us));
    put(to, ", ", "wait_ms", ms(f->wait_us));
    put(to, ", ", "requests_s", f->requests_s);
    put(to, ", ", "prefill_requests_s", f->prefill_requests_s);
    put(to, ", ", "one_node_ms", ms(r->one_node_us));
    put_text(to, ",\n ", "bound", sl_planner_bound_name(f->bound));
    fputs(", \"shares\": {", to);
    for (int b = 0; b < SL_BOUNDS; b++)
        put(to, b ? ", " : "", sl_planner_bound_name((enum sl_planner_bound)b), f->shares[b]);
    fprintf(to, "},\n \"decode\": {\"workers\": %u, \"parts\": %u, \"beside\": %s, \"running\": %u",
            f->decode.n, f->decode.parts, f->decode.beside ? "true" : "false", f->decode.running);
    put(to, ", ", "step_ms", ms(f->decode.step_us));
    put(to, ", ", "tokens_s", f->decode.tokens_s);
    fputs("}", to);
    put_stages(r, to);
    put_lengths(r, to);
    put_rows(r, to);
    fputs("}\n", to);
}
