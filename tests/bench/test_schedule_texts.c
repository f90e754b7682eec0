/* bench/schedule_texts.c: prompts begin alike where the load says so, and nowhere else. */
#include "bench/schedule_texts.h"
#include "pipeline/decide/limits.h"
#include "tests/check.h"
#include <stdlib.h>

enum { N = 400 };

static uint32_t alike(const uint32_t *a, const uint32_t *b, uint32_t n)
{
    uint32_t k = 0;
    while (k < n && a[k] == b[k])
        k++;
    return k;
}

static uint32_t *ids_of(const struct sl_bench_texts *texts, const struct sl_bench_traffic *load,
                        uint32_t which)
{
    uint32_t *ids = malloc(load->requests[which].n * sizeof *ids);
    if (!ids)
        sl_test_fail(__FILE__, __LINE__, "out of memory");
    sl_bench_texts_write(texts, load, which, ids, load->requests[which].n);
    return ids;
}

static void make(struct sl_bench_traffic *load, struct sl_bench_texts *texts, enum sl_bench_traffic_kind kind)
{
    struct sl_bench_traffic_config config = {kind, sl_bench_shape_find("A"), 0.6, N, 512, 3, 5e6};
    struct sl_err err;
    if (sl_bench_traffic_init(load, &config, &err) != SL_OK ||
        sl_bench_texts_init(texts, 3, config.shape->context, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
}

SL_TEST(prompts_that_share_a_text_begin_with_it_and_no_others_begin_alike)
{
    struct sl_bench_traffic load;
    struct sl_bench_texts texts;
    uint32_t *ids[N], n_alike = 0;
    make(&load, &texts, SL_BENCH_PREFIX);
    for (uint32_t i = 0; i < N; i++)
        ids[i] = ids_of(&texts, &load, i);
    for (uint32_t i = 0; i < N; i++)
        for (uint32_t k = 0; k < i; k++) {
            const struct sl_bench_request *a = &load.requests[i], *b = &load.requests[k];
            bool share = a->n_text > 0 && b->n_text > 0 && a->text == b->text;
            uint32_t n = alike(ids[i], ids[k], a->n < b->n ? a->n : b->n);
            CHECK(share ? n >= 512 && n < 512 + SL_PAGE : n < SL_PAGE);
            n_alike += share;
        }
    CHECK(n_alike > N * N / 2 / 10);
    for (uint32_t i = 0; i < N; i++)
        free(ids[i]);
    sl_bench_texts_fini(&texts);
    sl_bench_traffic_fini(&load);
}

SL_TEST(a_turn_begins_with_the_prompt_and_the_answer_of_the_one_before)
{
    struct sl_bench_traffic load;
    struct sl_bench_texts texts;
    make(&load, &texts, SL_BENCH_CHAT);
    REQUIRE(load.n_turns > 2);
    for (uint32_t i = load.n_open; i < load.n; i++) {
        const struct sl_bench_request *turn = &load.requests[i], *before = &load.requests[turn->before - 1];
        uint32_t *ids = ids_of(&texts, &load, i), *first = ids_of(&texts, &load, turn->before - 1);
        CHECK_INT(before->next - 1, i);
        CHECK_INT(turn->n_known, before->n + before->n_out);
        CHECK_INT(alike(ids, first, before->n), before->n);
        for (uint32_t k = before->n; k < turn->n; k++)
            CHECK((ids[k] == SL_BENCH_ID) == (k < turn->n_known)); /* answers are of one id */
        free(ids);
        free(first);
    }
    sl_bench_texts_fini(&texts);
    sl_bench_traffic_fini(&load);
}
