/* A running pipeline's metrics, read and weighed. */
#include "base/text.h"
#include "bench/plan/online.h"
#include "tests/check.h"
#include <math.h>
#include <stdlib.h>

/* Three stages of eight layers; stage 1's take `slow` times as long. */
static void add_page(struct sl_text *t, double slow, double requests)
{
    static const char *const of[] = {"chunk", "position", "row", "pair", "experts", "end"};
    static const double seconds[] = {1e-3, 1e-8, 1e-4, 1e-9, 4e-3, 0};
    for (int k = 0; k < 3; k++) {
        double last = k == 2 ? 7.1 / 8 : 1; /* K and V alone in its last layer */
        sl_text_add(t, "sluice_stage_layers{role=\"stage %d\"} 8\n", k);
        sl_text_add(t, "sluice_stage_expert_hit_ratio{role=\"stage %d\"} 0.0625\n", k);
        for (int i = 0; i < 6; i++)
            sl_text_add(t, "sluice_stage_cost_seconds{role=\"stage %d\",of=\"%s\"} %.9g\n", k, of[i],
                        seconds[i] * (k == 1 ? slow : 1) * (i > 0 ? last : 1));
    }
    sl_text_add(
        t,
        "sluice_requests_total{code=\"OK\",finish_reason=\"stop\"} %.0f\n"
        "sluice_prompt_tokens_total{source=\"computed\"} %.0f\nsluice_prompt_tokens_total{source=\"cached\"} %.0f\n"
        "sluice_generation_tokens_total %.0f\nsluice_decoders 1\nsluice_decoder_answers{decoder=\"0\"} 4\n"
        "sluice_decoder_step_seconds{decoder=\"0\"} 0.02\n",
        requests, requests * 1000, requests * 500, requests * 200);
}

static sl_status see(struct sl_plan_online *o, double slow, struct sl_err *err)
{
    struct sl_text before = {0}, now = {0};
    struct sl_scrape scrapes[2];
    add_page(&before, slow, 100);
    add_page(&now, slow, 120);
    sl_scrape_read(&scrapes[0], before.data, before.bytes);
    sl_scrape_read(&scrapes[1], now.data, now.bytes);
    sl_status status = sl_plan_see(&o->seen, &scrapes[0], &scrapes[1], 10, 20000, err);
    for (int i = 0; i < 2; i++)
        sl_scrape_free(&scrapes[i]);
    free(before.data);
    free(now.data);
    return status;
}

static struct sl_plan_online o;

SL_TEST(coefficients_and_load_are_what_the_metrics_say)
{
    struct sl_err err = {0};
    REQUIRE(see(&o, 1, &err) == SL_OK);
    CHECK(o.seen.n_stages == 3 && o.seen.begin[3] == 24 && o.seen.costs[0].hit == 0.0625);
    CHECK(fabs(o.seen.costs[0].us[SL_COST_W] - 4000) < 1e-6 &&
          fabs(o.seen.costs[1].us[SL_COST_C] - 1000) < 1e-6);
    CHECK(o.seen.rate == 2 && o.seen.prompt == 1000 && o.seen.output == 200 && o.seen.asked_tokens_s == 400);
    CHECK(o.seen.decoders == 1 && fabs(o.seen.step_us - 20000) < 1e-6 && o.seen.answers == 4);
}

SL_TEST(a_slow_stage_is_named_with_a_cut_that_gives_it_less)
{
    struct sl_err err = {0};
    char text[4096];
    REQUIRE(see(&o, 1.5, &err) == SL_OK && sl_plan_advise(&o, &err) == SL_OK);
    CHECK(o.slow == 2 && fabs(o.slower - 0.5) < 0.02);
    const struct sl_plan_advice *cut = NULL;
    for (uint32_t i = 0; i < o.n; i++)
        if (strncmp(o.advice[i].what, "another cut", 11) == 0)
            cut = &o.advice[i];
    REQUIRE(cut != NULL);
    unsigned layers[3];
    REQUIRE(sscanf(strchr(cut->what, '('), "(--layers %u,%u,%u)", &layers[0], &layers[1], &layers[2]) == 3);
    CHECK(layers[0] + layers[1] + layers[2] == 24 && layers[1] < 8);
    CHECK(cut->requests_s > 1.15 * o.requests_s && cut->ttft_us < o.ttft_us);
    CHECK_INT(o.decoders, 3); /* 400 tokens/s of 200 that a worker makes, at four fifths */
    FILE *to = fmemopen(text, sizeof text, "w");
    sl_plan_online_text(&o, to);
    fclose(to);
    CHECK_CONTAINS(text, "a layer takes 50 % longer on stage 1");
    CHECK_CONTAINS(text, cut->what);
    CHECK_CONTAINS(text, "4 stages, 1 more on a node like those that are there (--stages 4 --layers ");
    CHECK_CONTAINS(text, "3 decode workers in place of 1");
    for (uint32_t i = 1; i < o.n; i++)
        CHECK(fmax(o.advice[i - 1].requests_s / o.requests_s, o.ttft_us / o.advice[i - 1].ttft_us) >=
              fmax(o.advice[i].requests_s / o.requests_s, o.ttft_us / o.advice[i].ttft_us));
}

SL_TEST(equal_stages_need_no_other_cut)
{
    struct sl_err err = {0};
    REQUIRE(see(&o, 1, &err) == SL_OK && sl_plan_advise(&o, &err) == SL_OK);
    for (uint32_t i = 0; i < o.n; i++)
        CHECK(strncmp(o.advice[i].what, "another cut", 11) != 0);
}

SL_TEST(what_is_no_coordinators_page_is_refused)
{
    struct sl_scrape page;
    struct sl_err err = {0};
    static const char other
        [] = "go_goroutines 5\n",
   odd[] =
        "sluice_stage_layers{role=\"stage 0\"} 8\nsluice_stage_cost_seconds{role=\"stage 0\",of=\"row\"} NaN\n",
   many[] = "sluice_stage_layers{role=\"stage 0\"} 1e300\n";
    const char *pages[] = {other, odd, many};
    for (int i = 0; i < 3; i++) {
        REQUIRE(sl_scrape_read(&page, pages[i], strlen(pages[i])));
        CHECK(sl_plan_see(&o.seen, NULL, &page, 0, 0, &err) == SL_E_DATA);
        sl_scrape_free(&page);
    }
}
