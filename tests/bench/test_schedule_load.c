/* Loads of the small simulated world: rates and lengths are what they say, and a load is a function of its seed. */
#include "bench/schedule_load.h"
#include "tests/check.h"

static struct sl_bench_traffic make(enum sl_bench_traffic_kind kind, const char *world, double rate,
                                    uint32_t n, uint64_t seed)
{
    struct sl_bench_traffic load;
    struct sl_err err;
    struct sl_bench_traffic_config config = {kind, sl_bench_shape_find(world), rate, n, 8192, seed, 5e6};
    if (sl_bench_traffic_init(&load, &config, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return load;
}

static double work_of(const struct sl_bench_traffic *load, uint32_t tenant)
{
    double sum = 0;
    for (uint32_t i = 0; i < load->n_open; i++)
        sum += load->requests[i].tenant == tenant ? load->requests[i].work_us : 0;
    return sum;
}

static bool is_near(double value, double expected, double share)
{
    return value > expected * (1 - share) && value < expected * (1 + share);
}

SL_TEST(an_overload_offers_its_rate)
{
    static const char *const worlds[] = {"A", "B4"};
    for (uint32_t i = 0; i < 2; i++)
        for (double rate = 0.5; rate < 5; rate *= 2) {
            struct sl_bench_traffic load = make(SL_BENCH_OVERLOAD, worlds[i], rate, 20000, 3);
            CHECK_INT(load.n_open, 20000);
            CHECK(is_near(work_of(&load, 0) / load.requests[19999].at_us, rate, 0.12));
            for (uint32_t k = 0; k < load.n_open; k++)
                CHECK(load.requests[k].target_us > sl_bench_shape_find(worlds[i])->target_us);
            sl_bench_traffic_fini(&load);
        }
}

SL_TEST(a_flooder_offers_ten_times_what_its_victim_does_in_bursts_of_twenty)
{
    struct sl_bench_traffic load = make(SL_BENCH_TENANTS, "B4", 0, 5000, 1);
    double until = load.requests[load.n_open - 1].at_us;
    uint32_t n_flood = 0;
    CHECK(is_near(work_of(&load, 0) / until, 0.3, 0.12));
    CHECK(is_near(work_of(&load, 1) / until, 3.0, 0.12));
    for (uint32_t i = 0; i < load.n_open; i++) {
        n_flood += load.requests[i].tenant;
        CHECK(i == 0 || load.requests[i].at_us >= load.requests[i - 1].at_us);
    }
    CHECK_INT(load.n_open - n_flood, 5000);
    CHECK_INT(n_flood % 20, 0);
    sl_bench_traffic_fini(&load);
}

SL_TEST(a_mix_is_short_prompts_in_time_and_long_ones_outstanding)
{
    const struct sl_bench_shape *shape = sl_bench_shape_find("A");
    struct sl_bench_traffic load = make(SL_BENCH_MIX, "A", 0, 4000, 1);
    struct sl_cost_chunk one = {0};
    sl_cost_add(&one, 0, 64);
    CHECK_INT(load.width, 2);
    CHECK_INT(load.n_closed, 4000);
    CHECK(is_near(4000 * sl_bench_shape_us(shape, &one) / load.requests[3999].at_us, 0.3, 0.06));
    for (uint32_t i = 0; i < 8000; i++) {
        uint32_t n = load.requests[i].n;
        CHECK(i < 4000 ? n == 64 : n >= 8192 && n <= 16384);
    }
    sl_bench_traffic_fini(&load);
}

SL_TEST(lengths_are_drawn_as_they_say)
{
    struct sl_bench_traffic few = make(SL_BENCH_OVERLOAD, "A", 1, 20000, 1),
                            talk = make(SL_BENCH_OVERLOAD, "B4", 1, 20000, 1),
                            growth = make(SL_BENCH_GROWTH, "B4", 0, 20000, 1);
    uint32_t n_long = 0, below = 0, below_talk = 0;
    double outputs = 0;
    for (uint32_t i = 0; i < 20000; i++) {
        n_long += few.requests[i].n >= 8192;
        below += few.requests[i].n < 181; /* the middle of 64 and 512, by octaves */
        below_talk += talk.requests[i].n < 6900;
        outputs += growth.requests[i].n_out;
        CHECK(growth.requests[i].n + growth.requests[i].max_tokens == 131072);
        CHECK(few.requests[i].n <= 32768 && talk.requests[i].n <= 126000);
    }
    CHECK(is_near(n_long, 400, 0.15));
    CHECK(is_near(below, 9800, 0.03));
    CHECK(is_near(below_talk, 10000, 0.03));
    CHECK(is_near(outputs / 20000, 300, 0.03));
    sl_bench_traffic_fini(&few);
    sl_bench_traffic_fini(&talk);
    sl_bench_traffic_fini(&growth);
}

SL_TEST(a_longer_load_begins_as_a_shorter_one_and_another_seed_is_another_load)
{
    struct sl_bench_traffic brief = make(SL_BENCH_OVERLOAD, "B4", 1, 100, 7),
                            more = make(SL_BENCH_OVERLOAD, "B4", 1, 300, 7),
                            other = make(SL_BENCH_OVERLOAD, "B4", 1, 100, 8);
    CHECK(memcmp(brief.requests, more.requests, 100 * sizeof *brief.requests) == 0);
    CHECK(memcmp(brief.requests, other.requests, 100 * sizeof *brief.requests) != 0);
    sl_bench_traffic_fini(&brief);
    sl_bench_traffic_fini(&more);
    sl_bench_traffic_fini(&other);
}

SL_TEST(prefixes_and_chats_offer_their_rate_of_what_is_new)
{
    static const char *const worlds[] = {"A", "B4"};
    for (uint32_t w = 0; w < 2; w++) {
        struct sl_bench_traffic prefix = make(SL_BENCH_PREFIX, worlds[w], 0.5, 4000, 1),
                                chat = make(SL_BENCH_CHAT, worlds[w], 0.5, 20000, 1);
        uint32_t n_shared = 0, n_first = 0;
        double chats = 0, turns = 0;
        CHECK(is_near(work_of(&prefix, 0) / prefix.requests[3999].at_us, 0.5, 0.1));
        for (uint32_t i = 0; i < 4000; i++) {
            const struct sl_bench_request *r = &prefix.requests[i];
            n_shared += r->group;
            CHECK(r->n_known == (r->group ? 8192 : 0) && r->n >= 8192 + 64 && r->n <= 8192 + 512);
        }
        CHECK(is_near(n_shared, 3200, 0.03));
        for (uint32_t i = chat.n_open; i < chat.n; i++)
            turns += chat.requests[i].work_us;
        for (uint32_t i = 0; i < chat.n_open; i++) {
            n_first += chat.requests[i].group == 1;
            chats += chat.requests[i].group == 1 ? chat.requests[i].work_us : 0;
            CHECK((chat.requests[i].next > 0) == (chat.requests[i].group == 1));
        }
        double until = chat.requests[chat.n_open - 1].at_us;
        CHECK_INT(n_first, chat.n_turns);
        CHECK(is_near((chats + turns) / until, w == 0 ? 0.1 : 0.02, 0.06));
        CHECK(is_near((work_of(&chat, 0) + turns) / until, 0.5, 0.1));
        sl_bench_traffic_fini(&prefix);
        sl_bench_traffic_fini(&chat);
    }
}

SL_TEST(a_chat_that_is_offered_at_less_than_its_share_has_no_others_beside_it)
{
    struct sl_bench_traffic load = make(SL_BENCH_CHAT, "A", 0.05, 500, 1);
    CHECK_INT(load.n_turns, 500);
    double work = work_of(&load, 0);
    for (uint32_t i = load.n_open; i < load.n; i++)
        work += load.requests[i].work_us;
    CHECK(is_near(work / load.requests[499].at_us, 0.05, 0.12));
    sl_bench_traffic_fini(&load);
}
