/* Tests of the scene: given a script and arrivals, every time is computed, and here compared with what the definition says. */
#include "base/rng.h"
#include "bench/serve/selftest/scene.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

static const uint64_t MS = 1000000;

struct script_world {
    struct sl_script script;
    struct sl_scene scene;
    struct sl_turn turns[4096];
    uint32_t n;
};
static struct script_world w;

static void on_wake(struct sl_turn *turn)
{
    (void)turn;
}

static void open_world(uint32_t n_servers)
{
    struct sl_err err;
    memset(&w, 0, sizeof w);
    w.script = (struct sl_script){.ttft_ms = 100, .tpot_ms = 10, .tokens_per_message = 1};
    sl_scene_init(&w.scene, &w.script, n_servers, &err);
}

/* What has ended, and what a test has left behind. */
static void close_world(void)
{
    for (uint32_t i = 0; i < w.n; i++) {
        if (w.scene.turns[w.turns[i].slot] == &w.turns[i])
            sl_scene_leave(&w.scene, &w.turns[i], SL_NOT_DUE - 1);
        sl_turn_fini(&w.turns[i]);
    }
    sl_scene_fini(&w.scene);
}

static struct sl_turn *arrive(uint64_t now_ns, uint32_t max_tokens)
{
    struct sl_turn *turn = &w.turns[w.n++];
    struct sl_err err;
    turn->max_tokens = max_tokens;
    turn->on_wake = on_wake;
    if (sl_scene_arrive(&w.scene, turn, now_ns, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return turn;
}

/* Sends all that is due up to until_ns, each at the very time that it is. */
static void play_until(uint64_t until_ns)
{
    for (uint64_t now_ns; (now_ns = sl_scene_next(&w.scene)) <= until_ns;) {
        struct sl_turn *turn;
        while ((turn = sl_scene_due(&w.scene, now_ns))) {
            struct sl_send send;
            while (sl_turn_send(turn, now_ns, &send)) {
                sl_turn_sent(turn, &send, now_ns);
                if (send.kind == SL_SEND_CLOSE || send.kind == SL_SEND_DROP) {
                    sl_scene_leave(&w.scene, turn, now_ns);
                    break;
                }
            }
            if (w.scene.turns[turn->slot] == turn)
                sl_scene_wake_at(&w.scene, turn, send.at_ns);
        }
    }
}

SL_TEST(tokens_are_due_from_the_arrival)
{
    open_world(0);
    struct sl_turn *turn = arrive(7000 * MS, 3);
    CHECK_INT(sl_scene_next(&w.scene), 7100 * MS);
    play_until(SL_NOT_DUE - 1);
    CHECK_INT(turn->n_sent, 3);
    for (uint32_t k = 0; k < 3; k++)
        CHECK_INT(turn->token_ns[k], (7100 + 10 * k) * MS);
    CHECK_INT(turn->first_ns, 7100 * MS);
    CHECK_INT(turn->late_ns, 0);
    CHECK_STR(turn->id, "0"); /* of who has none it is the number */
    close_world();
}

SL_TEST(who_finds_no_server_waits_in_the_order_of_arrival)
{
    open_world(1); /* each takes 120 ms: 100, and two more tokens */
    for (uint64_t i = 0; i < 4; i++)
        arrive((1000 + 10 * i) * MS, 3);
    CHECK_INT(w.scene.n_waiting, 3);
    play_until(SL_NOT_DUE - 1);
    for (uint64_t i = 0; i < 4; i++) {
        CHECK_INT(w.turns[i].begin_ns, (1000 + 120 * i) * MS);
        CHECK_INT(w.turns[i].token_ns[0], (1100 + 120 * i) * MS);
        CHECK_INT(w.turns[i].token_ns[2], (1120 + 120 * i) * MS);
    }
    struct sl_turn *late = arrive(5000 * MS, 1); /* the queue is empty again */
    CHECK_INT(late->begin_ns, 5000 * MS);
    close_world();
}

/* Begin of each by the definition: whoever is next goes to the server that is free first. */
static void check_against_definition(uint32_t n_servers, double rate_per_ms)
{
    enum { N = 2000 };
    uint64_t free_ns[8] = {0}, now_ns = 1;
    static uint64_t arrivals[N];
    struct sl_rng rng = {42, n_servers};
    double waited = 0;
    open_world(n_servers);
    w.script.ttft_law.kind = SL_LAW_EXPONENTIAL;
    w.script.ttft_ms = 10;
    for (uint32_t i = 0; i < N; i++) {
        now_ns += (uint64_t)(-log(1 - sl_rng_unit(sl_rng_next(&rng))) / rate_per_ms * 1e6);
        arrivals[i] = now_ns;
    }
    for (uint32_t i = 0; i < N; i++) {
        play_until(arrivals[i] - 1);
        arrive(arrivals[i], 1);
    }
    play_until(SL_NOT_DUE - 1);
    for (uint32_t i = 0; i < N; i++) {
        uint64_t work_ns;
        uint32_t first = 0;
        sl_script_draw(&w.script, i, 1, &work_ns);
        for (uint32_t k = 1; k < n_servers; k++)
            first = free_ns[k] < free_ns[first] ? k : first;
        uint64_t begin_ns = arrivals[i] > free_ns[first] ? arrivals[i] : free_ns[first];
        free_ns[first] = begin_ns + work_ns;
        waited += (double)(begin_ns - arrivals[i]);
        CHECK_INT(w.turns[i].begin_ns, begin_ns);
        CHECK_INT(w.turns[i].first_ns, begin_ns + work_ns);
    }
    CHECK(waited > 0);
    close_world();
}

SL_TEST(the_queue_is_that_of_its_definition_for_one_server_and_for_several)
{
    check_against_definition(1, 0.08); /* M/M/1 at 0.8 */
    check_against_definition(3, 0.27);
}

SL_TEST(who_looks_late_changes_nothing_but_what_he_sends)
{
    open_world(1);
    struct sl_turn *a = arrive(1000 * MS, 1), *b = arrive(1010 * MS, 1), *c = arrive(1020 * MS, 1);
    struct sl_turn *d = arrive(1250 * MS, 1); /* nobody has looked at the clock since */
    CHECK_INT(a->leave_ns, 1100 * MS);
    CHECK_INT(b->begin_ns, 1100 * MS);
    CHECK_INT(c->begin_ns, 1200 * MS);
    CHECK_INT(d->state, SL_TURN_WAITS);
    struct sl_send send;
    CHECK(sl_scene_due(&w.scene, 1320 * MS) == a);
    REQUIRE(sl_turn_send(a, 1320 * MS, &send));
    sl_turn_sent(a, &send, 1320 * MS);
    CHECK_INT(a->late_ns, 220 * MS);
    CHECK_INT(a->token_ns[0], 1320 * MS); /* the truth is when it left */
    CHECK_INT(d->begin_ns, 1300 * MS);
    close_world();
}

SL_TEST(who_leaves_early_makes_room_at_that_moment)
{
    open_world(1);
    struct sl_turn *a = arrive(1000 * MS, 3), *b = arrive(1000 * MS, 3), *c = arrive(1000 * MS, 3),
                   *d = arrive(1000 * MS, 3);
    sl_scene_leave(&w.scene, c, 1010 * MS); /* from the middle of the queue */
    sl_scene_leave(&w.scene, a, 1050 * MS);
    CHECK_INT(b->begin_ns, 1050 * MS);
    sl_scene_leave(&w.scene, d, 1060 * MS); /* from its end */
    CHECK_INT(w.scene.n_waiting, 0);
    struct sl_turn *e = arrive(1070 * MS, 1);
    play_until(SL_NOT_DUE - 1);
    CHECK_INT(e->begin_ns, 1170 * MS);
    close_world();
}

SL_TEST(a_stall_moves_what_is_due_and_who_waits)
{
    struct sl_err err;
    open_world(1);
    REQUIRE(sl_script_parse_stalls(&w.script, "0.05:1", &err) == SL_OK);
    struct sl_turn *a = arrive(3000 * MS, 1),
                   *b = arrive(3000 * MS, 1); /* the script begins with the first */
    play_until(SL_NOT_DUE - 1);
    CHECK_INT(a->first_ns, 4100 * MS);
    CHECK_INT(b->begin_ns, 4100 * MS);
    CHECK_INT(b->first_ns, 4200 * MS);
    close_world();
}

SL_TEST(a_stall_of_a_second_makes_a_hundred_requests_late_at_a_hundred_a_second)
{
    struct sl_err err;
    uint32_t n_late = 0;
    open_world(0);
    REQUIRE(sl_script_parse_stalls(&w.script, "2:1", &err) == SL_OK);
    for (uint64_t i = 0; i < 500; i++) {
        play_until((1000 + 10 * i) * MS - 1);
        arrive((1000 + 10 * i) * MS, 1);
    }
    play_until(SL_NOT_DUE - 1);
    for (uint32_t i = 0; i < 500; i++)
        n_late += w.turns[i].first_ns - w.turns[i].arrival_ns > 100 * MS;
    CHECK_INT(n_late, 110); /* a hundred that came within it, and ten whose 100 ms were not over */
    close_world();
}

/* The sends of a turn with this fault, a letter each: E T G F W X D C. */
static const char *kinds_of(const char *fault, bool unary, uint32_t max_tokens)
{
    static char said[64];
    struct sl_err err;
    struct sl_send send = {0};
    char text[32];
    uint32_t n = 0;
    open_world(0);
    snprintf(text, sizeof text, "1:%s", fault);
    if (*fault)
        sl_script_parse_faults(&w.script, text, &err);
    struct sl_turn *turn = &w.turns[w.n];
    turn->unary = unary;
    turn->http = true;
    arrive(1000 * MS, max_tokens);
    while (atomic_load(&turn->begun) && n < sizeof said - 1 && sl_turn_send(turn, SL_NOT_DUE - 1, &send)) {
        said[n++] = "ETGFWXDC"[send.kind];
        sl_turn_sent(turn, &send, send.at_ns);
    }
    said[n] = 0;
    close_world();
    return said;
}

SL_TEST(each_fault_has_its_sequence)
{
    CHECK_STR(kinds_of("", false, 3), "TTTFC");
    CHECK_STR(kinds_of("refuse", false, 3), "");
    CHECK_STR(kinds_of("never", false, 3), "");
    CHECK_STR(kinds_of("drop", false, 4), "TTD");
    CHECK_STR(kinds_of("drop", false, 1), "TD");
    CHECK_STR(kinds_of("half", false, 5), "TTTC");
    CHECK_STR(kinds_of("garbage", false, 3), "GC");
    CHECK_STR(kinds_of("twice", false, 2), "TTFXFC");
    CHECK_STR(kinds_of("empty", false, 2), "ETETFC");
    CHECK_STR(kinds_of("usage-lie", false, 2), "TTFC");
    CHECK_STR(kinds_of("slow", false, 2), "TTFC");
    CHECK_STR(kinds_of("", true, 3), "WC");
    CHECK_STR(kinds_of("drop", true, 3), "D");
    CHECK_STR(kinds_of("half", true, 3), "C");
    CHECK_STR(kinds_of("twice", true, 3), "WWC");
    CHECK_STR(kinds_of("garbage", true, 3), "GC");
}

SL_TEST(a_whole_answer_is_due_with_its_last_token)
{
    struct sl_send send;
    open_world(0);
    w.turns[0].unary = true;
    struct sl_turn *turn = arrive(1000 * MS, 4);
    CHECK_INT(turn->leave_ns, 1130 * MS);
    CHECK(!sl_turn_send(turn, 1130 * MS - 1, &send));
    CHECK_INT(send.at_ns, 1130 * MS);
    REQUIRE(sl_turn_send(turn, 1130 * MS, &send));
    sl_turn_sent(turn, &send, 1130 * MS);
    for (uint32_t k = 0; k < 4; k++)
        CHECK_INT(turn->token_ns[k], 1130 * MS);
    close_world();
}

SL_TEST(an_empty_message_comes_midway)
{
    struct sl_err err;
    struct sl_send send;
    open_world(0);
    REQUIRE(sl_script_parse_faults(&w.script, "1:empty", &err) == SL_OK);
    struct sl_turn *turn = arrive(1000 * MS, 2);
    const uint64_t due_ms[] = {1050, 1100, 1105, 1110};
    for (int i = 0; i < 4; i++) {
        CHECK(!sl_turn_send(turn, due_ms[i] * MS - 1, &send));
        CHECK_INT(send.at_ns, due_ms[i] * MS);
        REQUIRE(sl_turn_send(turn, due_ms[i] * MS, &send));
        sl_turn_sent(turn, &send, due_ms[i] * MS);
    }
    close_world();
}

SL_TEST(who_is_refused_or_never_answered_takes_no_server)
{
    struct sl_err err;
    open_world(1);
    REQUIRE(sl_script_parse_faults(&w.script, "2:never,3:refuse", &err) == SL_OK);
    struct sl_turn *a = arrive(1000 * MS, 1), *never = arrive(1000 * MS, 1), *refused = arrive(1000 * MS, 1);
    CHECK_INT(a->state, SL_TURN_SERVED);
    CHECK_INT(never->state, SL_TURN_APART);
    CHECK_INT(refused->state, SL_TURN_APART);
    sl_scene_leave(&w.scene, never, 1010 * MS);
    sl_scene_leave(&w.scene, refused, 1010 * MS);
    CHECK_INT(w.scene.n_busy, 1);
    close_world();
}

SL_TEST(too_many_turns_are_refused_and_places_come_back)
{
    struct sl_err err = {0};
    open_world(1);
    static struct sl_turn crowd[SL_SCENE_TURNS + 1];
    memset(crowd, 0, sizeof crowd);
    for (uint32_t i = 0; i <= SL_SCENE_TURNS; i++) {
        crowd[i].max_tokens = 1;
        sl_status status = sl_scene_arrive(&w.scene, &crowd[i], 1000 * MS, &err);
        CHECK_INT(status, i < SL_SCENE_TURNS ? SL_OK : SL_E_EXHAUSTED);
    }
    sl_scene_leave(&w.scene, &crowd[77], 1000 * MS);
    sl_turn_fini(&crowd[77]);
    crowd[77] = (struct sl_turn){.max_tokens = 1};
    CHECK_INT(sl_scene_arrive(&w.scene, &crowd[77], 1001 * MS, &err), SL_OK);
    for (uint32_t i = SL_SCENE_TURNS; i-- > 0;)
        sl_scene_leave(&w.scene, &crowd[i], 1002 * MS);
    for (uint32_t i = 0; i <= SL_SCENE_TURNS; i++)
        sl_turn_fini(&crowd[i]);
    CHECK_INT(w.scene.n_busy, 0);
    CHECK_INT(sl_scene_next(&w.scene), SL_NOT_DUE);
    close_world();
}
