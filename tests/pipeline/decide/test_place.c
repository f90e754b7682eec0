/* pipeline/decide/place.c: which decode worker an answer begins on. */
#include "base/rng.h"
#include "pipeline/decide/place.h"
#include "tests/check.h"

static struct sl_step_fit measured(double at_rest, double of_a_row)
{
    struct sl_step_fit fit = {0};
    for (uint32_t i = 0; i < 200; i++) {
        uint32_t rows = 1 + i % 8;
        sl_step_fit_add(&fit, rows, at_rest + of_a_row * rows);
    }
    return fit;
}

SL_TEST(a_line_is_found_again_from_its_points)
{
    struct sl_step_fit fit = measured(1000, 50);
    CHECK(sl_step_fit_us(&fit, 1) > 1049 && sl_step_fit_us(&fit, 1) < 1051);
    CHECK(sl_step_fit_us(&fit, 16) > 1795 && sl_step_fit_us(&fit, 16) < 1805);
}

SL_TEST(a_line_follows_a_machine_that_became_slow)
{
    struct sl_step_fit fit = measured(1000, 50);
    for (uint32_t i = 0; i < 400; i++)
        sl_step_fit_add(&fit, 1 + i % 8, 10000 + 500 * (1 + i % 8));
    CHECK(sl_step_fit_us(&fit, 4) > 11900 && sl_step_fit_us(&fit, 4) < 12100);
}

SL_TEST(whatever_was_measured_more_rows_take_no_less_and_a_step_takes_time)
{
    struct sl_rng rng = {3, 0};
    for (int i = 0; i < 2000; i++) {
        struct sl_step_fit fit = {0};
        for (uint32_t k = 0, n = 1 + (uint32_t)(sl_rng_next(&rng) % 40); k < n; k++)
            sl_step_fit_add(&fit, (uint32_t)(sl_rng_next(&rng) % 300), (double)(sl_rng_next(&rng) % 100000));
        if (fit.n <= 0) {
            CHECK(sl_step_fit_us(&fit, 3) <= 0); /* steps of no rows say nothing */
            continue;
        }
        for (uint32_t rows = 1; rows < 300; rows++)
            CHECK(sl_step_fit_us(&fit, rows) >= 1 &&
                  sl_step_fit_us(&fit, rows + 1) >= sl_step_fit_us(&fit, rows) * (1 - 1e-9));
    }
}

SL_TEST(nobody_begins_where_it_does_not_fit)
{
    struct sl_step_fit none = {0};
    struct sl_seat seats[3] = {
        {false, 1, 0, 100, &none}, {false, 1, 0, 100, &none}, {false, 1, 0, 100, &none}};
    CHECK_INT(sl_place_choose(seats, 3), 3);
    CHECK_INT(sl_place_choose(seats, 0), 0);
    seats[2] = (struct sl_seat){true, 16, 0, 0, &none};
    CHECK_INT(sl_place_choose(seats, 3), 2);
}

SL_TEST(without_measurements_it_begins_where_most_pages_are_free_and_then_where_fewest_are)
{
    struct sl_step_fit none = {0};
    struct sl_seat seats[3] = {{true, 3, 0, 10, &none}, {true, 3, 0, 30, &none}, {true, 1, 0, 30, &none}};
    CHECK_INT(sl_place_choose(seats, 3), 2);
    seats[0].free_pages = 31;
    CHECK_INT(sl_place_choose(seats, 3), 0);
}

SL_TEST(a_machine_that_is_three_times_as_slow_is_left_alone_until_the_other_is_as_slow_by_its_rows)
{
    struct sl_step_fit slow = measured(3000, 300), fast = measured(1000, 100);
    uint32_t rows[2] = {0, 0};
    for (int i = 0; i < 32; i++) {
        struct sl_seat seats[2] = {{true, rows[0] + 1, 0, 1000, &slow}, {true, rows[1] + 1, 0, 10, &fast}};
        rows[sl_place_choose(seats, 2)]++;
    }
    CHECK(rows[1] > rows[0] && rows[0] >= 1);
    CHECK(1000 + 100 * rows[1] >= 3000 && 3000 + 300 * rows[0] <= 1000 + 100 * (rows[1] + 10));
}

SL_TEST(a_new_machine_is_tried)
{
    struct sl_step_fit old = measured(1000, 100), none = {0};
    struct sl_seat seats[2] = {{true, 5, 0, 200, &old}, {true, 1, 0, 200, &none}};
    CHECK_INT(sl_place_choose(seats, 2), 1);
}

SL_TEST(of_a_new_machine_as_much_is_expected_as_of_the_fastest_and_no_more)
{
    struct sl_step_fit slow = measured(3000, 300), fast = measured(1000, 100), none = {0};
    struct sl_seat seats[3] = {{true, 1, 0, 900, &slow}, {true, 1, 0, 300, &fast}, {true, 1, 0, 200, &none}};
    CHECK_INT(sl_place_choose(seats, 3), 1); /* they are alike, and more is free there */
    seats[2].free_pages = 301;
    CHECK_INT(sl_place_choose(seats, 3), 2);
}

/* What is spared by it is a push; what it would cost is every step of the answer. */
SL_TEST(between_workers_that_are_alike_it_begins_where_most_of_its_prompt_lies)
{
    struct sl_step_fit slow = measured(3000, 300), fast = measured(1000, 100);
    struct sl_seat seats[3] = {{true, 2, 3, 10, &fast}, {true, 1, 5, 8, &fast}, {true, 1, 0, 900, &fast}};
    CHECK_INT(sl_place_choose(seats, 3), 1);
    seats[1].kept_pages = 3;
    CHECK_INT(sl_place_choose(seats, 3), 0); /* as much lies there, and more is free */
    seats[1].kept_pages = 900;
    seats[1].fit = &slow;
    CHECK_INT(sl_place_choose(seats, 3), 0);
    seats[1].fit = &fast;
    seats[1].fits = false;
    CHECK_INT(sl_place_choose(seats, 3), 0);
}
