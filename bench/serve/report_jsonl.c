/* The per-request file: a line a request, and every line says all that is needed to compute its figures
 * again, by our definitions or by others.
 *
 * Times are ns of the run: of the monotonic clock since run.began_ns. null: it did not happen. Requests of
 * the warm-up are here, too: "measured" says whether a request counts. */
#include "bench/serve/point.h"
#include "bench/serve/written.h"

#include <inttypes.h>
#include <math.h>

static const char *const ending_keys[] = {
    [SL_ENDING_NONE] = "unfinished", [SL_ENDING_DONE] = "done",       [SL_ENDING_CANCELLED] = "cancelled",
    [SL_ENDING_FAILED] = "failed",   [SL_ENDING_TIMEOUT] = "timeout", [SL_ENDING_UNSENT] = "unsent"};
static const char *const part_keys[SL_PARTS] = {"wire", "queue", "fill", "busy", "stall", "drain", "kv"};

static void put_time(FILE *to, const char *key, uint64_t ns)
{
    if (ns == SL_NEVER)
        fprintf(to, ", \"%s\": null", key);
    else
        fprintf(to, ", \"%s\": %" PRIu64, key, ns);
}

static void put_limits(FILE *to, const struct sl_limits *limits)
{
    fputs(", \"limits_ms\": {\"ttft\": ", to);
    sl_write_number(to, limits->ttft_ms > 0 ? limits->ttft_ms : NAN);
    fputs(", \"tpot\": ", to);
    sl_write_number(to, limits->tpot_ms > 0 ? limits->tpot_ms : NAN);
    fputs(", \"e2el\": ", to);
    sl_write_number(to, limits->e2e_ms > 0 ? limits->e2e_ms : NAN);
    fputs("}", to);
}

static void put_outcome(FILE *to, const struct sl_report *report, uint32_t run_number,
                        const struct sl_outcome *o)
{
    const struct sl_load_run *run = &report->runs[run_number];
    bool known = o->load_class < report->n_classes;
    fprintf(to, "{\"request\": %" PRIu32 ", \"class\": ", o->number);
    sl_write_json(to, known ? report->class_names[o->load_class] : NULL);
    fprintf(to, ", \"measured\": %s", sl_point_counts(run, o, -1) ? "true" : "false");
    put_time(to, "due_ns", o->due_ns);
    put_time(to, "sent_ns", o->sent_ns);
    put_time(to, "first_ns", o->first_ns);
    put_time(to, "last_ns", o->last_ns);
    put_time(to, "end_ns", o->end_ns);
    fprintf(to, ", \"ending\": \"%s\", \"error\": ",
            o->ending <= SL_ENDING_UNSENT ? ending_keys[o->ending] : "?");
    sl_write_json(to,
                  o->error > 0 && o->error < run->outcomes.n_errors ? run->outcomes.errors[o->error] : NULL);
    fprintf(to,
            ", \"input_tokens\": %" PRIu32 ", \"output_tokens\": %" PRIu32 ", \"wanted_tokens\": %" PRIu32
            ", \"arrivals\": %" PRIu32 ", \"gaps_ms\": [",
            o->input_tokens, o->output_tokens, o->wanted_tokens, o->n_arrivals);
    for (uint32_t k = 0; k < o->n_gaps; k++)
        fprintf(to, "%s%.9g", k ? "," : "", (double)o->gaps_ms[k]);
    fputs("], \"parts_us\": ", to);
    for (uint32_t part = 0; o->has_parts && part < SL_PARTS; part++)
        fprintf(to, "%s\"%s\": %" PRIu32, part ? ", " : "{", part_keys[part], o->parts_us[part]);
    fputs(o->has_parts ? "}" : "null", to);
    if (known && sl_limits_any(&report->limits[o->load_class]))
        put_limits(to, &report->limits[o->load_class]);
    fprintf(to, ", \"run\": {\"number\": %" PRIu32 ", \"point\": %" PRIu32 ", \"rate\": ", run_number,
            run->point);
    sl_write_number(to, run->rate);
    fprintf(to, ", \"began_ns\": %" PRIu64, run->outcomes.began_ns);
    put_time(to, "warm_ns", run->outcomes.warm_ns);
    put_time(to, "over_ns", run->outcomes.over_ns);
    fputs("}}\n", to);
}

sl_status sl_report_jsonl(const struct sl_report *report, const char *path, struct sl_err *err)
{
    struct sl_written written;
    SL_TRY(sl_written_open(&written, "per-request file", path, err));
    for (uint32_t r = 0; r < report->n_runs; r++)
        for (uint32_t i = 0; i < report->runs[r].outcomes.n && !ferror(written.to); i++)
            put_outcome(written.to, report, r, &report->runs[r].outcomes.all[i]);
    return sl_written_close(&written, err);
}
