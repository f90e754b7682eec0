/* pipeline/decide/foretold.c: what a stage knows of cancels that have not come yet. */
#include "base/rng.h"
#include "pipeline/decide/foretold.h"
#include "tests/check.h"

static void add(struct sl_foretold *f, uint64_t seq, uint64_t number, uint64_t applied)
{
    sl_foretold_add(f, (struct sl_foretold_cancel){seq, number}, applied);
}

SL_TEST(a_cancel_is_known_from_when_it_is_told_to_when_it_comes)
{
    struct sl_foretold f = {0};
    CHECK(!sl_foretold_has(&f, 16));
    add(&f, 16, 9, 3);
    add(&f, 32, 7, 3);
    CHECK(sl_foretold_has(&f, 16) && sl_foretold_has(&f, 32) && !sl_foretold_has(&f, 48));
    sl_foretold_applied(&f, 7);
    CHECK(sl_foretold_has(&f, 16) && !sl_foretold_has(&f, 32));
    sl_foretold_applied(&f, 9);
    CHECK_INT(f.n, 0);
}

SL_TEST(what_is_told_twice_is_kept_once)
{
    struct sl_foretold f = {0};
    add(&f, 16, 9, 3);
    add(&f, 16, 9, 3);
    CHECK_INT(f.n, 1);
}

SL_TEST(what_comes_after_its_record_or_names_nobody_is_not_kept)
{
    struct sl_foretold f = {0};
    add(&f, 16, 9, 9);
    add(&f, 16, 9, 12);
    add(&f, 0, 9, 3);
    CHECK_INT(f.n, 0);
}

SL_TEST(of_more_than_there_is_room_for_those_that_come_last_are_kept)
{
    struct sl_foretold f = {0};
    for (uint64_t i = 1; i <= 2 * SL_FORETOLD; i++)
        add(&f, 16 * i, 100 + i, 3);
    add(&f, 16 * 1000, 101, 3); /* sooner than all that are there */
    CHECK_INT(f.n, SL_FORETOLD);
    for (uint64_t i = 1; i <= 2 * SL_FORETOLD; i++)
        CHECK_INT(sl_foretold_has(&f, 16 * i), i > SL_FORETOLD);
    sl_foretold_applied(&f, 100 + 2 * SL_FORETOLD);
    CHECK_INT(f.n, 0);
}

/* Against a table without a bound, which forgets nothing but looks at the numbers. */
SL_TEST(in_any_order_it_knows_what_was_told_and_has_not_come)
{
    struct sl_rng rng = {1, 0};
    uint64_t number[40] = {0}, applied = 0; /* [seq]; 0: it was not told */
    struct sl_foretold f = {0};
    for (uint32_t i = 0; i < 100000; i++) {
        uint64_t seq = 1 + sl_rng_next(&rng) % 39;
        if (sl_rng_next(&rng) % 3 == 0) {
            sl_foretold_applied(&f, ++applied);
        } else {
            uint64_t at = number[seq] > applied ? number[seq] : applied + sl_rng_next(&rng) % 50;
            add(&f, seq, at, applied);
            number[seq] = at;
        }
        for (uint64_t s = 1; s < 40; s++)
            if (sl_foretold_has(&f, s) != (number[s] > applied)) {
                sl_test_fail(__FILE__, __LINE__, "seq %llu at %llu", (unsigned long long)s,
                             (unsigned long long)applied);
                return;
            }
    }
}
