/* Files that say what a load is: a mix of classes, or, after a first byte of 'j' or 't', prompts as lines of JSON or as a text. What is
 * taken can be checked, described and drawn from, and prompts of it can be made. */
#include "bench/serve/target.h"
#include "bench/serve/workload.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void require(bool promise)
{
    if (!promise)
        abort();
}

/* A few requests of each class, as they would be sent. */
static void draw(const struct sl_workload *workload)
{
    struct sl_prompts prompts = {.form = SL_PROMPT_TEXT};
    for (uint32_t k = 0; k < workload->n_classes; k++)
        for (uint64_t i = 0; i < 3; i++) {
            struct sl_drawn drawn;
            struct sl_call_ask ask = {0};
            sl_workload_draw(workload, k, i, 0, &drawn);
            require(drawn.input_tokens >= 1 && drawn.input_tokens <= SL_LOAD_MAX_TOKENS &&
                    drawn.output_tokens >= 1);
            if (drawn.input_tokens < 4096 && sl_prompts_make(&prompts, workload, k, &drawn, NULL, &ask))
                require(ask.ids || ask.text || ask.messages);
        }
    sl_prompts_free(&prompts);
}

static void prompts_of(const uint8_t *data, size_t bytes, bool lines)
{
    struct sl_workload workload = {.n_classes = 1, .seed = 1};
    struct sl_err err = {0};
    char *text = malloc(bytes + 1);
    require(text != NULL);
    memcpy(text, data, bytes);
    text[bytes] = 0;
    sl_load_class_init(&workload.classes[0], "all");
    if (sl_corpus_parse(&workload.classes[0].corpus, text, bytes, lines ? "p.jsonl" : "p.txt", &err) == SL_OK)
        draw(&workload);
    else
        require(err.text[0] && !workload.classes[0].corpus);
    sl_workload_free(&workload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct sl_workload workload = {.seed = 1, .seconds = 1};
    struct sl_err err = {0};
    char words[256];
    if (bytes > 0 && (data[0] == 'j' || data[0] == 't')) {
        prompts_of(data + 1, bytes - 1, data[0] == 'j');
        return 0;
    }
    if (sl_mix_parse(&workload, (const char *)data, bytes, "mix", &err) == SL_OK) {
        require(workload.n_classes > 0);
        sl_workload_describe(&workload, words, sizeof words);
        if (sl_workload_check(&workload, &err) == SL_OK)
            draw(&workload);
    } else {
        require(err.text[0]);
    }
    sl_workload_free(&workload);
    return 0;
}
