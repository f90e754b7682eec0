/* Prefill of prompts of several lengths behind a given context, split by part (stage_bench.h says
 * how the context comes about). A round runs every length once, each with the rooflines measured
 * just before it; the first round only warms up and is not counted: it maps the weights. As in a
 * pipeline, only the prompt's last row is finished by the last layer; the others end with their K
 * and V there (kernels/device.h), and what is not done is not counted as work. */
#include "bench/bench_stage.h"
#include "bench/stage_bench.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { LENGTHS_MAX = 16, TOKENS_MAX = 1 << 20 };

sl_status sl_bench_numbers(const char *text, const char *option, uint32_t least, uint32_t limit,
                           uint32_t *values, uint32_t most, uint32_t *n, struct sl_err *err)
{
    *n = 0;
    for (const char *at = text;; at++) {
        char *end;
        bool digits = *at >= '0' && *at <= '9';
        unsigned long value = digits ? strtoul(at, &end, 10) : 0;
        if (!digits || value < least || value > limit || *n == most || (*end != ',' && *end != 0))
            return sl_fail(err, SL_E_USAGE,
                           "--%s takes up to %u numbers of %u to %u with commas between them, not '%.40s'",
                           option, most, least, limit, text);
        values[(*n)++] = (uint32_t)value;
        at = end;
        if (*at == 0)
            return SL_OK;
    }
}

struct prefill {
    struct sl_bench_prefill bench;
    uint32_t lengths[LENGTHS_MAX], n_lengths;
    struct sl_stage_bench stage;
    struct sl_account accounts[LENGTHS_MAX][SL_SAMPLES_MAX];
};

static sl_status measure(struct prefill *p, struct sl_sequence *sequence, struct sl_err *err)
{
    for (uint32_t round = 0; round <= p->bench.rounds; round++)
        for (uint32_t i = 0; i < p->n_lengths; i++) {
            struct sl_account account;
            SL_TRY(sl_account_begin(&account, &p->stage, err));
            sl_stage_bench_prefill(&p->stage, sequence, p->bench.context, p->lengths[i]);
            sl_account_end(&account, &p->stage);
            if (round > 0)
                p->accounts[i][round - 1] = account;
        }
    return SL_OK;
}

static void print(const struct prefill *p)
{
    bool json = p->bench.json, colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
    sl_stage_report_head(&p->stage, &p->accounts[0][p->bench.rounds - 1], json);
    for (uint32_t i = 0; i < p->n_lengths; i++) {
        struct sl_stage_report report;
        sl_stage_report_make(&report, &p->stage, p->accounts[i], p->bench.rounds, p->lengths[i]);
        if (json) {
            printf("%s\n  {\"prompt_tokens\": %u, \"context\": %u, \"pp_tok_s\": %.2f, ", i ? "," : "",
                   p->lengths[i], p->bench.context, report.tok_per_s);
            sl_stage_report_json(&report);
            putchar('}');
            continue;
        }
        printf("\nprefill of %u tokens behind %u: ", p->lengths[i], p->bench.context);
        sl_stage_report_speed(&report, report.ms, "");
        printf(", median of %u\n", p->bench.rounds);
        sl_stage_report_print(&report, colour);
    }
    if (json)
        puts("\n]}");
}

static sl_status run(struct prefill *p, struct sl_err *err)
{
    uint32_t longest = 0;
    SL_TRY(sl_bench_numbers(p->bench.prompt_tokens, "prompt-tokens", 1, TOKENS_MAX, p->lengths, LENGTHS_MAX,
                            &p->n_lengths, err));
    for (uint32_t i = 0; i < p->n_lengths; i++)
        longest = p->lengths[i] > longest ? p->lengths[i] : longest;
    struct sl_stage_bench_options options = {.model = p->bench.model,
                                             .kv = p->bench.kv,
                                             .device = p->bench.device,
                                             .numerics = p->bench.numerics,
                                             .load = sl_loading_of(&p->bench.load, SL_PROGRESS_BAR),
                                             .n_threads = p->bench.n_threads,
                                             .max_tokens = p->bench.chunk,
                                             .n_sequences = 1,
                                             .context_tokens = p->bench.context + longest};
    struct sl_sequence *sequence;
    SL_TRY(sl_stage_bench_open(&p->stage, &options, err));
    SL_TRY(sl_stage_bench_sequence(&p->stage, 1, p->bench.context, options.context_tokens, &sequence, err));
    SL_TRY(measure(p, sequence, err));
    print(p);
    return SL_OK;
}

sl_status sl_bench_prefill(const struct sl_bench_prefill *bench, struct sl_err *err)
{
    if (bench->rounds == 0 || bench->rounds > SL_SAMPLES_MAX)
        return sl_fail(err, SL_E_USAGE, "1 to %d rounds", SL_SAMPLES_MAX);
    struct prefill *p = calloc(1, sizeof *p);
    if (!p)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the bench");
    p->bench = *bench;
    sl_status status = run(p, err);
    sl_stage_bench_close(&p->stage);
    free(p);
    return status;
}
