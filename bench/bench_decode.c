/* Decode steps of batches of several sizes, each sequence behind the same context, split by part.
 * What is fed is random ids, not what was sampled: which experts are hit is then as spread as it is
 * for different texts. A round runs every batch size once, with the rooflines measured just before
 * it; the first round only warms up. Steps stay at the same positions: the context is what was
 * asked for. */
#include "base/rng.h"
#include "bench/bench_stage.h"
#include "bench/stage_bench.h"
#include "pipeline/stage/sample.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BATCHES_MAX = 16, SAID = 1024, BIASES = 32 };

struct sampler { /* of one text stands for all: they are as long */
    struct sl_sampling sampling;
    struct sl_steering steering;
    uint8_t steering_bytes[12 + 8 * BIASES];
    uint64_t *prompt;
    uint32_t ids[SAID], counts[SAID];
    struct sl_counts said;
    struct sl_seen seen;
    void *scratch;
};

struct decode {
    struct sl_bench_decode bench;
    uint32_t batches[BATCHES_MAX], n_batches;
    struct sl_sequence *sequences[SL_MAX_BATCH];
    struct sl_stage_bench stage;
    uint64_t n_steps; /* so far: the ids of each are others */
    bool samples;
    struct sampler sampler;
    struct sl_account accounts[BATCHES_MAX][SL_SAMPLES_MAX];
};

static void step(struct decode *d, uint32_t batch)
{
    struct sl_stage_bench *b = &d->stage;
    struct sl_chunk *chunk = &b->chunk;
    for (uint32_t i = 0; i < batch; i++) {
        b->ids[i] = (uint32_t)(sl_rng_at(d->n_steps, i) % sl_pack_shape(b->pack)->vocab);
        chunk->slices[i] = (struct sl_chunk_slice){d->sequences[i], d->bench.context, 1, 0};
    }
    d->n_steps++;
    chunk->n_tokens = chunk->n_slices = batch;
    chunk->x = b->rows;
    sl_stage_embed(b->stage, chunk, (const uint8_t *)b->ids);
    sl_stage_run(b->stage, chunk);
    float *logits = sl_stage_logits(b->stage, b->rows, batch);
    uint32_t vocab = sl_pack_shape(b->pack)->vocab;
    for (uint32_t i = 0; d->samples && i < batch; i++) {
        struct sl_token_out token;
        sl_sample(&token, logits + (size_t)i * vocab, vocab, &d->sampler.sampling, &d->sampler.seen,
                  d->n_steps, d->sampler.scratch);
    }
}

/* Ids are spread over the vocabulary as those of a long text are: some are in prompt and output, some in one of them. */
static sl_status make_sampler(struct decode *d, struct sl_err *err)
{
    struct sampler *s = &d->sampler;
    const char *kind = d->bench.sampling;
    uint32_t vocab = sl_pack_shape(d->stage.pack)->vocab;
    bool penalties = strcmp(kind, "penalties") == 0;
    if (!penalties && strcmp(kind, "plain") != 0 && strcmp(kind, "none") != 0)
        return sl_fail(err, SL_E_USAGE, "--sampling is none, plain or penalties, not %s", kind);
    d->samples = strcmp(kind, "none") != 0;
    s->sampling = (struct sl_sampling){.temperature = 0.8f, .top_p = 0.95f, .n_logprobs = -1};
    s->scratch = malloc(sl_sample_scratch_bytes(vocab));
    s->prompt = calloc(sl_id_words(vocab), sizeof *s->prompt);
    if (!s->scratch || !s->prompt)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the sampler");
    if (!penalties)
        return SL_OK;
    s->sampling.presence_penalty = 0.5f;
    s->sampling.frequency_penalty = 0.2f;
    s->sampling.repetition_penalty = 1.1f;
    struct sl_bias bias[BIASES];
    for (uint32_t i = 0; i < BIASES; i++)
        bias[i] = (struct sl_bias){i * (vocab / BIASES), 1};
    sl_steering_pack(s->steering_bytes, bias, BIASES, NULL, 0, vocab);
    const char *bad = sl_steering_read(&s->steering, s->steering_bytes, sizeof s->steering_bytes, vocab);
    if (bad)
        return sl_fail(err, SL_E_INTERNAL, "the bench's steering can't be read: %s", bad);
    s->said = (struct sl_counts){.room = SAID, .ids = s->ids, .counts = s->counts};
    for (uint32_t i = 0; i < d->bench.context; i++) {
        uint32_t id = (uint32_t)(sl_rng_at(1, i) % vocab);
        sl_ids_mark(s->prompt, &id, 1);
    }
    for (uint32_t i = 0; i < SAID; i++)
        sl_counts_add(&s->said, (uint32_t)(sl_rng_at(2, i) % vocab));
    s->seen = (struct sl_seen){&s->steering, s->prompt, s->said.n, s->ids, s->counts, 0, NULL};
    return SL_OK;
}

static sl_status measure(struct decode *d, struct sl_err *err)
{
    for (uint32_t round = 0; round <= d->bench.rounds; round++)
        for (uint32_t i = 0; i < d->n_batches; i++) {
            struct sl_account account;
            SL_TRY(sl_account_begin(&account, &d->stage, err));
            for (uint32_t s = 0; s < d->bench.steps; s++)
                step(d, d->batches[i]);
            sl_account_end(&account, &d->stage);
            if (round > 0)
                d->accounts[i][round - 1] = account;
        }
    return SL_OK;
}

static void print(const struct decode *d)
{
    bool json = d->bench.json, colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
    double first = 0;
    sl_stage_report_head(&d->stage, &d->accounts[0][d->bench.rounds - 1], json);
    for (uint32_t i = 0; i < d->n_batches; i++) {
        struct sl_stage_report report;
        sl_stage_report_make(&report, &d->stage, d->accounts[i], d->bench.rounds,
                             d->batches[i] * d->bench.steps);
        first = i == 0 ? report.tok_per_s : first;
        if (json) {
            printf("%s\n  {\"batch\": %u, \"context\": %u, \"tg_tok_s\": %.2f, \"times_first\": "
                   "%.3f, ",
                   i ? "," : "", d->batches[i], d->bench.context, report.tok_per_s,
                   first > 0 ? report.tok_per_s / first : 0);
            sl_stage_report_json(&report);
            putchar('}');
            continue;
        }
        printf("\ndecode, batch of %u behind %u tokens: ", d->batches[i], d->bench.context);
        sl_stage_report_speed(&report, report.ms / d->bench.steps, " a step");
        printf(", median of %u", d->bench.rounds);
        if (i > 0 && first > 0)
            printf(", %.2f x batch %u", report.tok_per_s / first, d->batches[0]);
        printf("\n  times below are of %u steps\n", d->bench.steps);
        sl_stage_report_print(&report, colour);
    }
    if (json)
        puts("\n]}");
}

static sl_status run(struct decode *d, struct sl_err *err)
{
    uint32_t most = 0;
    SL_TRY(sl_bench_numbers(d->bench.batch, "batch", 1, SL_MAX_BATCH, d->batches, BATCHES_MAX, &d->n_batches,
                            err));
    for (uint32_t i = 0; i < d->n_batches; i++)
        most = d->batches[i] > most ? d->batches[i] : most;
    struct sl_stage_bench_options options = {.model = d->bench.model,
                                             .kv = d->bench.kv,
                                             .device = d->bench.device,
                                             .numerics = d->bench.numerics,
                                             .load = sl_loading_of(&d->bench.load, SL_PROGRESS_BAR),
                                             .n_threads = d->bench.n_threads,
                                             .max_tokens = most > SL_PAGE_TOKENS ? most : SL_PAGE_TOKENS,
                                             .n_sequences = most,
                                             .context_tokens = d->bench.context + 1};
    SL_TRY(sl_stage_bench_open(&d->stage, &options, err));
    for (uint32_t i = 0; i < most; i++)
        SL_TRY(sl_stage_bench_sequence(&d->stage, i + 1, d->bench.context, options.context_tokens,
                                       &d->sequences[i], err));
    SL_TRY(make_sampler(d, err));
    SL_TRY(measure(d, err));
    print(d);
    return SL_OK;
}

sl_status sl_bench_decode(const struct sl_bench_decode *bench, struct sl_err *err)
{
    if (bench->rounds == 0 || bench->rounds > SL_SAMPLES_MAX)
        return sl_fail(err, SL_E_USAGE, "1 to %d rounds", SL_SAMPLES_MAX);
    struct decode *d = calloc(1, sizeof *d);
    if (!d)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the bench");
    d->bench = *bench;
    sl_status status = run(d, err);
    sl_stage_bench_close(&d->stage);
    free(d->sampler.scratch);
    free(d->sampler.prompt);
    free(d);
    return status;
}
