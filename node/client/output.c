/* Printing answers. Text is decoded token by token and never shows half a character; JSON is
 * written by hand because its numbers have a promised form (nine significant digits restore an f32
 * exactly) and its keys a promised order. Times of the timeline are relative to the request's
 * admission: absolute ones mean nothing to a reader. */
#include "node/client/output.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sl_output_begin(struct sl_output *output, const char *form, const struct sl_tokenizer *tokenizer,
                     bool score)
{
    *output = (struct sl_output){.tokenizer = tokenizer,
                                 .json = strcmp(form, "json") == 0,
                                 .ids = strcmp(form, "ids") == 0,
                                 .score = score};
    sl_detok_init(&output->detok, tokenizer, true);
    output->piece = malloc(sl_detok_room(tokenizer) + 1);
}

void sl_output_fini(struct sl_output *output)
{
    free(output->piece);
    output->piece = NULL;
}

void sl_output_tokens(void *user, const struct sl_token_out *tokens, uint32_t n)
{
    struct sl_output *output = user;
    if (output->json || output->score || !output->piece)
        return;
    for (uint32_t i = 0; i < n; i++) {
        if (output->ids)
            printf("%" PRIu32 "\n", tokens[i].id);
        else
            fwrite(output->piece, 1, sl_detok_push(&output->detok, tokens[i].id, output->piece), stdout);
    }
    fflush(stdout);
}

/* ---- JSON. ---- */

void sl_json_string(FILE *to, const char *text, size_t bytes)
{
    fputc('"', to);
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\')
            fprintf(to, "\\%c", c);
        else if (c == '\n')
            fputs("\\n", to);
        else if (c < 0x20 || c == 0x7f)
            fprintf(to, "\\u%04x", c);
        else
            fputc(c, to);
    }
    fputc('"', to);
}

static void print_number(double value)
{
    if (isfinite(value))
        printf("%.9g", value);
    else
        fputs("null", stdout);
}

/* first: the first token of a prompt has nothing before it. */
static void print_logprobs(const struct sl_token_out *tokens, uint32_t n, bool first)
{
    fputs("\"logprobs\": [", stdout);
    for (uint32_t i = 0; i < n; i++) {
        if (i > 0)
            fputs(", ", stdout);
        print_number(first && i == 0 ? NAN : (double)tokens[i].logprob);
    }
    fputs("]", stdout);
}

static void print_top(const struct sl_token_out *tokens, uint32_t n, bool first)
{
    fputs("\"top_logprobs\": [", stdout);
    for (uint32_t i = 0; i < n; i++) {
        fputs(i > 0 ? ", [" : "[", stdout);
        for (uint32_t k = 0; k < tokens[i].n_top && !(first && i == 0); k++) {
            printf("%s{\"id\": %" PRIu32 ", \"logprob\": ", k > 0 ? ", " : "", tokens[i].top_ids[k]);
            print_number((double)tokens[i].top_logprobs[k]);
            fputc('}', stdout);
        }
        fputs("]", stdout);
    }
    fputs("]", stdout);
}

/* How long after the admission; null when it did not happen. */
static void print_time(const char *key, uint64_t at_us, uint64_t submit_us)
{
    if (at_us == 0)
        printf(", \"%s\": null", key);
    else
        printf(", \"%s\": %" PRId64, key, (int64_t)(at_us - submit_us));
}

static void print_timeline(const struct sl_answer *answer)
{
    const struct sl_timeline *t = &answer->timeline;
    if (answer->has_timeline && t->first_token_us > 0)
        printf("\"ttft_ms\": %.3f", (double)(t->first_token_us - t->submit_us) / 1000.0);
    else
        fputs("\"ttft_ms\": null", stdout);
    fputs(",\n \"timeline\": [", stdout);
    for (uint32_t i = 0; i < t->n_spans; i++) {
        const struct sl_span *span = &t->spans[i];
        printf("%s\n  {\"stage\": %u, \"chunk\": %" PRIu32 ", \"pos\": %" PRIu32 ", \"tokens\": %" PRIu32,
               i > 0 ? "," : "", span->stage, span->chunk, span->pos, span->tokens);
        print_time("recv_us", span->recv_us, t->submit_us);
        print_time("begin_us", span->begin_us, t->submit_us);
        print_time("end_us", span->end_us, t->submit_us);
        print_time("kv_acked_us", span->kv_acked_us, t->submit_us);
        printf(", \"at_peak_us\": %" PRIu64 ", \"predicted_us\": %" PRIu64, span->at_peak_us,
               span->predicted_us);
        fputc('}', stdout);
    }
    fputs("],\n \"foreign\": [", stdout);
    for (uint32_t i = 0; i < t->n_foreign; i++) {
        printf("%s\n  {\"stage\": %u", i > 0 ? "," : "", t->foreign[i].stage);
        print_time("begin_us", t->foreign[i].begin_us, t->submit_us);
        print_time("end_us", t->foreign[i].end_us, t->submit_us);
        fputc('}', stdout);
    }
    fputs("]", stdout);
}

static void print_text(const struct sl_output *output, const struct sl_answer *answer)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *to = open_memstream(&text, &bytes);
    if (to) {
        struct sl_detok detok;
        sl_detok_init(&detok, output->tokenizer, true);
        for (uint32_t i = 0; i < answer->n_tokens; i++)
            fwrite(output->piece, 1, sl_detok_push(&detok, answer->tokens[i].id, output->piece), to);
        fwrite(output->piece, 1, sl_detok_flush(&detok, output->piece), to);
        fclose(to);
    }
    fputs("\"text\": ", stdout);
    sl_json_string(stdout, text ? text : "", bytes);
    free(text);
}

static void print_generated(const struct sl_output *output, const struct sl_answer *answer, bool top)
{
    static const char *const reasons[] = {
        [SL_FINISH_STOP] = "stop", [SL_FINISH_LENGTH] = "length", [SL_FINISH_ABORT] = "abort"};
    printf("{\"prompt_tokens\": %" PRIu32 ",\n \"cached_tokens\": %" PRIu32 ",\n \"output_ids\": [",
           answer->prompt_tokens, answer->cached_tokens);
    for (uint32_t i = 0; i < answer->n_tokens; i++)
        printf("%s%" PRIu32, i > 0 ? ", " : "", answer->tokens[i].id);
    fputs("],\n ", stdout);
    print_text(output, answer);
    printf(",\n \"finish_reason\": \"%s\",\n ", reasons[answer->finish]);
    print_logprobs(answer->tokens, answer->n_tokens, false);
    if (top) {
        fputs(",\n ", stdout);
        print_top(answer->tokens, answer->n_tokens, false);
    }
    if (output->digest)
        printf(",\n \"digest\": {\"logits\": \"%016" PRIx64 "\", \"kv\": \"%016" PRIx64 "\"}",
               answer->logits_digest, answer->kv_digest);
    fputs(",\n ", stdout);
    print_timeline(answer);
    fputs("}\n", stdout);
}

/* ---- Scores. ---- */

static void print_score_json(const struct sl_answer *answer, bool top)
{
    printf("{\"prompt_tokens\": %" PRIu32 ",\n ", answer->prompt_tokens);
    print_logprobs(answer->prompt, answer->n_prompt, true);
    if (top) {
        fputs(",\n ", stdout);
        print_top(answer->prompt, answer->n_prompt, true);
    }
    fputs(",\n ", stdout);
    print_timeline(answer);
    fputs("}\n", stdout);
}

static void print_score(const struct sl_output *output, const struct sl_answer *answer,
                        const struct sl_prompt *prompt, bool top)
{
    if (output->json) {
        print_score_json(answer, top);
        return;
    }
    double sum = 0;
    for (uint32_t i = 0; i < answer->n_prompt; i++) {
        if (i > 0)
            sum += (double)answer->prompt[i].logprob;
        if (output->ids && i == 0)
            printf("%" PRIu32 " null\n", prompt->ids[0]);
        else if (output->ids)
            printf("%" PRIu32 " %.9g\n", prompt->ids[i], (double)answer->prompt[i].logprob);
    }
    if (output->ids)
        return;
    uint32_t scored = answer->n_prompt > 0 ? answer->n_prompt - 1 : 0;
    if (scored == 0) {
        printf("%" PRIu32 " token, none with a token before it: nothing to score\n", answer->prompt_tokens);
        return;
    }
    printf("%" PRIu32 " tokens, %.4f nats a token, perplexity %.3f\n", answer->prompt_tokens, -sum / scored,
           exp(-sum / scored));
}

void sl_output_end(struct sl_output *output, const struct sl_answer *answer, const struct sl_prompt *prompt,
                   bool top)
{
    if (!output->piece)
        return;
    if (output->score) {
        print_score(output, answer, prompt, top);
    } else if (output->json) {
        print_generated(output, answer, top);
    } else if (!output->ids) {
        fwrite(output->piece, 1, sl_detok_flush(&output->detok, output->piece), stdout);
        fputc('\n', stdout);
    }
    fflush(stdout);
}
