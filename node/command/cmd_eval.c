/* `sluice eval`: what packing has cost a model. Two packs read the same text in this process, each as one
 * stage over all its layers, and their predictions are compared position by position over the whole
 * vocabulary (node/eval/divergence.h).
 *
 * The text is cut into windows of --context tokens, each read from nothing, and only the second half of a
 * window is scored, where a prediction has at least half a window to go by: llama.cpp's perplexity does the
 * same, so the figures can be laid side by side. What is left over at the end of the text is not read.
 *
 * Memory: the two stages (planned by themselves), the hidden rows of one window each, and five numbers a
 * position. Logits exist for one head buffer of rows at a time; the rows are compared by a team, into places
 * of their own, so that the figures do not depend on the number of threads. */
#include "base/clock.h"
#include "base/cpu.h"
#include "base/log.h"
#include "kernels/team.h"
#include "model/pack/pack_cache.h"
#include "node/client/prompt.h"
#include "node/command/commands.h"
#include "node/command/shared_options.h"
#include "node/eval/eval_output.h"
#include "node/local/cluster.h"
#include "pipeline/stage/device_kind.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct eval_values {
    const char *model, *reference, *text, *token_ids, *kv, *kv_reference, *numerics, *device,
        *device_reference;
    struct sl_loading_values load;
    uint32_t context, threads, max_tokens;
    bool json;
};

enum { MIN_CONTEXT = 8, MAX_TOKENS = 1 << 26 };

#define ROW(name, type, field, fallback, choices, min, max, unit, help)                                      \
    {                                                                                                        \
        name, type, offsetof(struct eval_values, field), fallback, choices, min, max, unit, help             \
    }
static const struct sl_option eval_options[] = {
    SL_OPTION_MODEL(eval_values, model),
    ROW("reference", SL_OPT_STRING, reference, NULL, NULL, 0, 0, "PATH",
        "The pack or directory to compare it with: the same model, less rounded. Without it, perplexity "
        "only."),
    ROW("text", SL_OPT_STRING, text, NULL, NULL, 0, 0, "FILE",
        "A text, UTF-8, that the model was not trained on; - is standard input."),
    SL_OPTION_TOKEN_IDS(eval_values, token_ids),
    ROW("context", SL_OPT_UINT, context, "512", NULL, MIN_CONTEXT, MAX_TOKENS, "tokens",
        "Length of a window. Its second half is scored."),
    ROW("max-tokens", SL_OPT_UINT, max_tokens, "0", NULL, 0, MAX_TOKENS, "tokens",
        "Read no more than the first N tokens of the text; 0: all."),
    SL_OPTION_KV(eval_values, kv),
    ROW("kv-reference", SL_OPT_CHOICE, kv_reference, "f32", "bf16|i8|f32", 0, 0, NULL,
        "Numbers of the reference's KV cache; its numerics are f32."),
    SL_OPTION_NUMERICS(eval_values, numerics, "f32"),
    SL_OPTION_DEVICE(eval_values, device),
    ROW("device-reference", SL_OPT_STRING, device_reference, "cpu", NULL, 0, 0, "DEVICE",
        "--device of the reference."),
    SL_LOADING_ROWS(eval_values),
    SL_OPTION_THREADS(eval_values, threads, "0"),
    SL_OPTION_JSON(eval_values, json),
    {0},
};
#undef ROW

struct eval {
    struct sl_eval_model model, reference;
    bool with_reference;
    struct sl_tokenizer *tokenizer;
    struct sl_prompt text;
    struct sl_team *team;          /* compares rows */
    struct sl_position *positions; /* [n_windows][per_window] */
    double *scratch;
    uint32_t context, n_windows, first,
        per_window; /* rows [first, first + per_window) of a window are scored */
};

/* ---- a window ---- */

struct compare_job { /* rows of logits -> positions */
    const float *reference, *logits;
    const uint32_t *truth;
    struct sl_position *out;
    uint32_t n, vocab;
};

static void compare_rows(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct compare_job *job = arg;
    (void)scratch;
    for (size_t i = member; i < job->n; i += n_members)
        sl_position_compare(&job->out[i], job->reference ? job->reference + i * job->vocab : NULL,
                            job->logits + i * job->vocab, job->vocab, job->truth[i]);
}

static sl_status check_finite(const struct compare_job *job, uint32_t token, struct sl_err *err)
{
    for (uint32_t i = 0; i < job->n; i++)
        if (isnan(job->out[i].nll))
            return sl_fail(err, SL_E_DATA,
                           "a logit after token %u is not a finite number; `sluice check` the packs",
                           token + i);
    return SL_OK;
}

/* Logits a head buffer at a time: both models' are valid at once, since each stage has its own. */
static sl_status score_window(struct eval *e, uint32_t window, struct sl_err *err)
{
    const struct sl_shape *s = sl_stage_shape(e->model.stage);
    const uint32_t *ids = e->text.ids + (size_t)window * e->context;
    uint32_t rows = sl_stage_head_rows(e->model.stage);
    if (e->with_reference && sl_stage_head_rows(e->reference.stage) < rows)
        rows = sl_stage_head_rows(e->reference.stage);
    sl_eval_model_read(&e->model, ids, e->context);
    if (e->with_reference)
        sl_eval_model_read(&e->reference, ids, e->context);
    for (uint32_t done = 0; done < e->per_window; done += rows) {
        uint32_t row = e->first + done, n = e->per_window - done < rows ? e->per_window - done : rows;
        struct compare_job job = {.truth = ids + row + 1,
                                  .n = n,
                                  .vocab = s->vocab,
                                  .out = e->positions + (size_t)window * e->per_window + done};
        job.logits = sl_stage_logits(e->model.stage, e->model.x + (size_t)row * s->d_model, n);
        if (e->with_reference) {
            uint32_t width = sl_stage_shape(e->reference.stage)->d_model;
            job.reference = sl_stage_logits(e->reference.stage, e->reference.x + (size_t)row * width, n);
        }
        sl_team_run(e->team, compare_rows, &job);
        SL_TRY(check_finite(&job, window * e->context + row, err));
    }
    return SL_OK;
}

/* ---- setting up ---- */

static sl_status check_values(const struct eval_values *v, struct sl_err *err)
{
    if (!v->model)
        return sl_fail(err, SL_E_USAGE, "say --model PATH, a pack or a Hugging Face directory");
    if (!v->text == !v->token_ids)
        return sl_fail(err, SL_E_USAGE, "say either --text FILE or --token-ids FILE");
    return SL_OK;
}

static sl_status check_pair(const struct eval *e, struct sl_err *err)
{
    uint32_t a = sl_pack_shape(e->model.pack)->vocab, b = sl_pack_shape(e->reference.pack)->vocab;
    if (a != b)
        return sl_fail(err, SL_E_USAGE,
                       "the model has a vocabulary of %u and the reference one of %u; only packs of one "
                       "model can be compared",
                       a, b);
    const char *da = e->model.tokenizer_digest, *db = e->reference.tokenizer_digest;
    if (da[0] && db[0] && strcmp(da, db) != 0)
        return sl_fail(err, SL_E_USAGE,
                       "the tokenizer.json of model and reference differ; only packs of one model can be "
                       "compared");
    return SL_OK;
}

static sl_status open_models(struct eval *e, const struct eval_values *v, uint32_t n_threads,
                             struct sl_err *err)
{
    struct sl_eval_config model = {.path = v->model,
                                   .kv = v->kv,
                                   .which = v->device,
                                   .window = v->context,
                                   .n_threads = n_threads,
                                   .load = sl_loading_of(&v->load, SL_PROGRESS_BAR)},
                          reference = model;
    SL_TRY(sl_device_kind_read(&model.device, model.which, err));
    uint32_t allowed = sl_profile_allowed(v->numerics), able = allowed & sl_device_profiles(model.device);
    model.profile = sl_profile_best(able ? able : allowed); /* one that we lack is refused by the stage */
    reference.path = v->reference;
    reference.kv = v->kv_reference;
    reference.which = v->device_reference;
    reference.profile = SL_PROFILE_F32;
    SL_TRY(sl_device_kind_read(&reference.device, reference.which, err));
    SL_TRY(sl_device_look(model.device, err));
    SL_TRY(sl_device_look(reference.device, err));
    SL_TRY(sl_eval_model_open(&e->model, &model, err));
    if (!v->reference)
        return SL_OK;
    e->with_reference = true;
    SL_TRY(sl_eval_model_open(&e->reference, &reference, err));
    return check_pair(e, err);
}

static sl_status read_text(struct eval *e, const struct eval_values *v, struct sl_err *err)
{
    uint32_t vocab = sl_pack_shape(e->model.pack)->vocab;
    SL_TRY(sl_pack_tokenizer(e->model.pack, &e->tokenizer, err));
    SL_TRY(sl_prompt_read(&e->text, NULL, v->text, v->token_ids, e->tokenizer, err));
    if (v->max_tokens > 0 && e->text.n_ids > v->max_tokens)
        e->text.n_ids = v->max_tokens;
    if (e->text.n_ids < v->context)
        return sl_fail(
            err, SL_E_USAGE,
            "there are %u tokens to read and a window has %u; give more text or a smaller --context",
            e->text.n_ids, v->context);
    for (uint32_t i = 0; i < e->text.n_ids; i++)
        if (e->text.ids[i] >= vocab)
            return sl_fail(err, SL_E_INVALID, "token %u is %u, outside the vocabulary of %u", i,
                           e->text.ids[i], vocab);
    e->context = v->context;
    e->n_windows = e->text.n_ids / v->context;
    e->first = v->context / 2;
    e->per_window = v->context - 1 - e->first; /* the last row predicts what is not in the window */
    size_t n = (size_t)e->n_windows * e->per_window;
    e->positions = calloc(n, sizeof *e->positions);
    e->scratch = calloc(n, sizeof *e->scratch);
    return e->positions && e->scratch
               ? SL_OK
               : sl_fail(err, SL_E_NOMEM, "no memory for the figures of %zu positions; use --max-tokens", n);
}

/* ---- the command ---- */

static sl_status evaluate(struct eval *e, const struct eval_values *v, struct sl_err *err)
{
    uint32_t n_threads = sl_cpu_threads(v->threads, 1);
    SL_TRY(check_values(v, err));
    SL_TRY(open_models(e, v, n_threads, err));
    SL_TRY(read_text(e, v, err));
    SL_TRY(sl_team_create(&e->team, n_threads, 0, err));
    struct sl_eval_run run = {.text = v->text ? v->text : v->token_ids,
                              .n_tokens = e->text.n_ids,
                              .context = e->context,
                              .n_windows = e->n_windows,
                              .per_window = e->per_window,
                              .n_threads = n_threads,
                              .model = &e->model,
                              .reference = e->with_reference ? &e->reference : NULL};
    struct sl_eval_progress progress;
    uint64_t began = sl_clock_ns();
    sl_status status = SL_OK;
    sl_eval_progress_start(&progress, e->n_windows);
    for (uint32_t w = 0; w < e->n_windows && status == SL_OK; w++) {
        status = score_window(e, w, err);
        if (status == SL_OK)
            sl_eval_progress_add(&progress, w + 1, e->positions + (size_t)w * e->per_window, e->per_window,
                                 e->with_reference);
    }
    sl_eval_progress_end(&progress);
    SL_TRY(status);
    run.seconds = (double)(sl_clock_ns() - began) * 1e-9;
    sl_divergence_report(&run.figures, e->positions, e->n_windows, e->per_window, e->with_reference,
                         e->scratch);
    if (v->json)
        sl_eval_print_json(&run);
    else
        sl_eval_print(&run);
    return SL_OK;
}

static int run_eval(const void *values, const char *const *args, uint32_t n_args)
{
    (void)args;
    (void)n_args;
    struct sl_err err = {0};
    struct eval e = {0};
    sl_log_init("eval", SL_LOG_WARN); /* the figures are what the user wants to see */
    sl_status status = evaluate(&e, values, &err);
    sl_team_destroy(e.team);
    sl_eval_model_close(&e.model);
    sl_eval_model_close(&e.reference);
    sl_tokenizer_destroy(e.tokenizer);
    sl_prompt_free(&e.text);
    free(e.positions);
    free(e.scratch);
    return status == SL_OK ? 0 : sl_command_failed("eval", &err);
}

const struct sl_command sl_command_eval = {
    "eval",
    "",
    "perplexity, and KL divergence of a pack against another",
    "Reads a text with a model and, side by side in this process, with a reference, and prints the "
    "perplexity of both, the "
    "KL divergence from the reference over the whole vocabulary, how often both find the same token "
    "likeliest, and how far "
    "the probability of the true token moves; each mean with its standard error between windows. The text is "
    "cut into "
    "windows of --context tokens, each read from nothing; as in llama.cpp's perplexity, the second half of "
    "each window is "
    "scored. No token is added to a window.",
    eval_options,
    sizeof(struct eval_values),
    0,
    0,
    run_eval,
};
