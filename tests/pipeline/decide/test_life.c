/* pipeline/decide/life.c: every pair of a state and an event, against a table written by hand here. */
#include "pipeline/decide/life.h"
#include "tests/check.h"

/* A digit is the state after the event, '-' is no step. */
static void check_table(const char *what, const char *const *rows, int n_states, int n_events,
                        int (*step)(int state, int event))
{
    for (int s = 0; s < n_states; s++)
        for (int e = 0; e < n_events; e++) {
            int to = step(s, e), expected = rows[s][e] == '-' ? -1 : rows[s][e] - '0';
            if (to != expected)
                sl_test_fail(__FILE__, __LINE__, "%s: event %d in state %d leads to %d, expected %d", what, e,
                             s, to, expected);
        }
}

static int pipeline_step(int state, int event)
{
    enum sl_life life = (enum sl_life)state;
    bool legal = sl_life_step(&life, (enum sl_life_event)event);
    CHECK(legal || (int)life == state);
    return legal ? (int)life : -1;
}

static int stages_step(int state, int event)
{
    enum sl_on_stages s = (enum sl_on_stages)state;
    bool legal = sl_on_stages_step(&s, (enum sl_on_stages_event)event);
    CHECK(legal || (int)s == state);
    return legal ? (int)s : -1;
}

static int decode_step(int state, int event)
{
    enum sl_on_decode s = (enum sl_on_decode)state;
    bool legal = sl_on_decode_step(&s, (enum sl_on_decode_event)event);
    CHECK(legal || (int)s == state);
    return legal ? (int)s : -1;
}

SL_TEST(a_pipeline_forms_serves_drains_and_ends)
{
    /* columns: complete, drain, lose, stop */
    static const char *const rows[] = {[SL_LIFE_FORMING] = "1234",
                                       [SL_LIFE_READY] = "-234",
                                       [SL_LIFE_DRAINING] = "2234",
                                       [SL_LIFE_LOST] = "-334",
                                       [SL_LIFE_STOPPED] = "-444"};
    check_table("life", rows, SL_LIVES, SL_LIFE_EVENTS, pipeline_step);
    CHECK_STR(sl_life_name(SL_LIFE_DRAINING), "draining");
}

SL_TEST(the_stages_have_a_request_from_its_first_run_to_the_answered_release)
{
    /* columns: run, release, answer */
    static const char *const rows[] = {
        [SL_STAGES_NONE] = "1--", [SL_STAGES_LIVE] = "12-", [SL_STAGES_FREEING] = "--0"};
    check_table("stages", rows, SL_STAGES_STATES, SL_STAGES_EVENTS, stages_step);
}

SL_TEST(the_decode_worker_has_a_request_from_admission_until_it_is_gone)
{
    /* columns: expect, adopt, last, stop, gone */
    static const char *const rows[] = {[SL_DECODE_NONE] = "1----",
                                       [SL_DECODE_EXPECTED] = "-2-30",
                                       [SL_DECODE_ADOPTED] = "--330",
                                       [SL_DECODE_ENDING] = "----0"};
    check_table("decode", rows, SL_DECODE_STATES, SL_DECODE_EVENTS, decode_step);
}
