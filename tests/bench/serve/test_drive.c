/* Tests of the driver, with a target of our own that answers at once or never: which requests are sent, when the next of a closed
 * class and the next turn are due, what is written down of cancellations, timeouts and too many. No time is measured. */
#include "base/clock.h"
#include "bench/serve/drive.h"
#include "bench/serve/target_impl.h"
#include "tests/check.h"

#include <stdlib.h>

enum fake_way { ANSWERS, SAYS_NOTHING, FAILS, NEVER };

struct fake_target { /* answers in poll, in the order of sending */
    struct sl_target base;
    enum fake_way way;
    struct {
        uint32_t call, tokens;
        bool running;
    } calls[64];
    uint32_t n, n_sent, n_running, most_running, n_cancelled, last_ids;
};

static void fake_send(struct sl_target *target, uint32_t call, const struct sl_call_ask *ask)
{
    struct fake_target *f = (struct fake_target *)target;
    CHECK(call < target->config.max_calls);
    f->calls[call].running = true;
    f->calls[call].tokens = ask->max_tokens;
    f->n_sent++;
    f->last_ids = ask->n_ids;
    f->n_running++;
    if (f->n_running > f->most_running)
        f->most_running = f->n_running;
}

static void fake_cancel(struct sl_target *target, uint32_t call)
{
    struct fake_target *f = (struct fake_target *)target;
    CHECK(f->calls[call].running);
    f->calls[call].running = false;
    f->n_running--;
    f->n_cancelled++;
}

static void fake_poll(struct sl_target *target, uint64_t until_ns)
{
    struct fake_target *f = (struct fake_target *)target;
    const struct sl_target_config *c = &target->config;
    bool came = false;
    for (uint32_t i = 0; i < c->max_calls && f->way != NEVER; i++) {
        uint32_t ids[] = {7};
        for (uint32_t t = 0; f->calls[i].running && f->way == ANSWERS && t < f->calls[i].tokens; t++)
            c->on_tokens(c->user, i, sl_clock_ns(), 1, c->keep_answers ? ids : NULL, NULL);
        if (!f->calls[i].running)
            continue;
        f->calls[i].running = false;
        f->n_running--;
        came = true;
        struct sl_call_end end = {.ending = f->way == FAILS ? SL_ENDING_FAILED : SL_ENDING_DONE,
                                  .sentence = f->way == FAILS ? "no" : NULL};
        c->on_end(c->user, i, sl_clock_ns(), &end);
    }
    if (!came)
        sl_target_nap(until_ns);
}

static const struct sl_target_ways fake_ways = {.send = fake_send, .cancel = fake_cancel, .poll = fake_poll};
static const volatile int no_stop;

static struct sl_workload load_of(const char *output)
{
    struct sl_workload w = {.n_classes = 1, .seed = 7};
    struct sl_err err;
    sl_load_class_init(&w.classes[0], "all");
    w.classes[0].rate = 1e5;
    w.classes[0].arrivals.kind = SL_ARRIVAL_CONSTANT;
    w.classes[0].n_requests = 40;
    w.classes[0].input.a = 5;
    CHECK(sl_length_parse(&w.classes[0].output, output, &err) == SL_OK);
    return w;
}

static void drive(struct fake_target *fake, const struct sl_workload *w, uint32_t max_in_flight,
                  uint32_t timeout_ms, struct sl_load_run *run)
{
    struct sl_err err = {0};
    struct sl_drive *drive;
    struct sl_drive_config config = {
        .timeout_ms = timeout_ms, .max_in_flight = max_in_flight, .stop = &no_stop};
    REQUIRE(sl_drive_new(&drive, &config, &err) == SL_OK);
    fake->base.ways = &fake_ways;
    fake->base.config =
        (struct sl_target_config){.max_calls = max_in_flight, .keep_answers = w->classes[0].turns > 1};
    sl_drive_hook(drive, &fake->base.config);
    sl_drive_prompts(drive, SL_PROMPT_IDS, 1000);
    sl_drive_load(drive, w, "test");
    *run = (struct sl_load_run){0};
    CHECK(sl_drive_run(drive, &fake->base, run, &err) == SL_OK);
    CHECK_INT(fake->n_running, 0);
    sl_drive_free(drive);
}

static uint32_t n_ended(const struct sl_load_run *run, enum sl_ending ending)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < run->outcomes.n; i++)
        n += run->outcomes.all[i].ending == ending;
    return n;
}

SL_TEST(every_request_is_sent_and_written_down)
{
    struct fake_target fake = {.way = ANSWERS};
    struct sl_workload w = load_of("20");
    struct sl_load_run run;
    drive(&fake, &w, 64, 60000, &run);
    CHECK_INT(run.outcomes.n, 40);
    CHECK_INT(n_ended(&run, SL_ENDING_DONE), 40);
    for (uint32_t i = 0; i < run.outcomes.n; i++) {
        const struct sl_outcome *o = &run.outcomes.all[i];
        CHECK_INT(o->number, i);
        CHECK_INT(o->due_ns, (i + 1) * 10000ull);
        CHECK_INT(o->output_tokens, 20);
        CHECK_INT(o->n_arrivals, 20);
        CHECK_INT(o->n_gaps, 19);
        CHECK_INT(o->input_tokens, 5);
        CHECK(o->sent_ns >= o->due_ns && o->first_ns >= o->sent_ns && o->last_ns >= o->first_ns &&
              o->end_ns >= o->last_ns);
        double sum = 0;
        for (uint32_t g = 0; g < o->n_gaps; g++)
            sum += o->gaps_ms[g];
        CHECK(sum * 1e6 < (double)(o->last_ns - o->first_ns) + 100 &&
              sum * 1e6 > (double)(o->last_ns - o->first_ns) - 100);
    }
    sl_load_run_free(&run);
}

SL_TEST(a_closed_class_has_so_many_at_a_time_and_all_of_them)
{
    struct fake_target fake = {.way = ANSWERS};
    struct sl_workload w = load_of("3");
    w.classes[0].rate = 0;
    w.classes[0].concurrency = 3;
    struct sl_load_run run;
    drive(&fake, &w, 64, 60000, &run);
    CHECK_INT(run.outcomes.n, 40);
    CHECK_INT(fake.most_running, 3);
    sl_load_run_free(&run);
}

SL_TEST(a_closed_class_goes_on_after_failures)
{
    struct fake_target fake = {.way = FAILS};
    struct sl_workload w = load_of("3");
    w.classes[0].rate = 0;
    w.classes[0].concurrency = 20;
    struct sl_load_run run;
    drive(&fake, &w, 64, 60000, &run);
    CHECK_INT(run.outcomes.n, 40);
    CHECK_INT(n_ended(&run, SL_ENDING_FAILED), 40);
    CHECK_INT(run.outcomes.n_errors, 2);
    CHECK_STR(run.outcomes.errors[run.outcomes.all[39].error], "no");
    sl_load_run_free(&run);
}

SL_TEST(turns_come_one_after_the_other_and_say_all_before)
{
    struct fake_target fake = {.way = ANSWERS};
    struct sl_workload w = load_of("2");
    w.classes[0].n_requests = 4;
    w.classes[0].turns = 5;
    struct sl_load_run run;
    drive(&fake, &w, 64, 60000, &run);
    CHECK_INT(run.outcomes.n, 20);
    CHECK_INT(fake.last_ids, 5 * 5 + 4 * 2);
    CHECK_INT(fake.most_running <= 4, true);
    sl_load_run_free(&run);
}

SL_TEST(a_conversation_ends_with_its_first_failure)
{
    struct fake_target fake = {.way = FAILS};
    struct sl_workload w = load_of("2");
    w.classes[0].n_requests = 4;
    w.classes[0].turns = 5;
    struct sl_load_run run;
    drive(&fake, &w, 64, 60000, &run);
    CHECK_INT(run.outcomes.n, 4);
    sl_load_run_free(&run);
}

SL_TEST(a_share_is_cancelled_after_so_many_tokens)
{
    struct fake_target fake = {.way = ANSWERS};
    struct sl_workload w = load_of("20");
    w.classes[0].cancel_share = 1;
    w.classes[0].cancel_tokens = 7;
    struct sl_load_run run;
    drive(&fake, &w, 64, 60000, &run);
    CHECK_INT(n_ended(&run, SL_ENDING_CANCELLED), 40);
    CHECK_INT(fake.n_cancelled, 40);
    CHECK_INT(run.outcomes.all[0].output_tokens, 7);
    CHECK_INT(run.outcomes.all[0].error, 0);
    sl_load_run_free(&run);
}

SL_TEST(what_never_ends_times_out_and_what_is_cancelled_after_a_time_is)
{
    struct fake_target fake = {.way = NEVER};
    struct sl_workload w = load_of("20");
    struct sl_load_run run;
    drive(&fake, &w, 64, 20, &run);
    CHECK_INT(n_ended(&run, SL_ENDING_TIMEOUT), 40);
    CHECK_CONTAINS(run.outcomes.errors[run.outcomes.all[0].error], "no end within 20 ms");
    CHECK(run.outcomes.all[0].first_ns == SL_NEVER);
    sl_load_run_free(&run);
    fake = (struct fake_target){.way = NEVER};
    w.classes[0].cancel_share = 1;
    w.classes[0].cancel_ms = 5;
    drive(&fake, &w, 64, 60000, &run);
    CHECK_INT(n_ended(&run, SL_ENDING_CANCELLED), 40);
    sl_load_run_free(&run);
}

SL_TEST(more_than_may_be_in_flight_is_not_sent_and_said_so)
{
    struct fake_target fake = {.way = NEVER};
    struct sl_workload w = load_of("20");
    struct sl_load_run run;
    drive(&fake, &w, 10, 50, &run);
    CHECK_INT(fake.most_running, 10);
    CHECK_INT(run.outcomes.n, 40);
    CHECK_INT(n_ended(&run, SL_ENDING_UNSENT) + n_ended(&run, SL_ENDING_TIMEOUT), 40);
    CHECK(n_ended(&run, SL_ENDING_UNSENT) > 0);
    for (uint32_t i = 0; i < run.outcomes.n; i++)
        if (run.outcomes.all[i].ending == SL_ENDING_UNSENT)
            CHECK_CONTAINS(run.outcomes.errors[run.outcomes.all[i].error],
                           "not sent: 10 requests were in flight");
    sl_load_run_free(&run);
}

SL_TEST(an_answer_without_a_token_is_a_failure)
{
    struct fake_target fake = {.way = SAYS_NOTHING};
    struct sl_workload w = load_of("1");
    struct sl_load_run run;
    drive(&fake, &w, 64, 60000, &run);
    CHECK_INT(n_ended(&run, SL_ENDING_FAILED), 40);
    CHECK_CONTAINS(run.outcomes.errors[run.outcomes.all[0].error], "without a token");
    sl_load_run_free(&run);
}
