/* Axes: ticks are round, few, within, and every value has a place. */
#include "base/rng.h"
#include "bench/serve/plot.h"
#include "tests/check.h"

#include <math.h>

/* 1, 2 or 5 times a power of ten. */
static bool is_round(double value)
{
    double factor = value / pow(10, floor(log10(value) + 1e-9));
    return fabs(factor - 1) < 1e-6 || fabs(factor - 2) < 1e-6 || fabs(factor - 5) < 1e-6;
}

SL_TEST(an_axis_spans_its_values_and_its_ticks_are_round)
{
    for (uint64_t i = 0; i < 20000; i++) {
        double low = exp(20 * sl_rng_unit(sl_rng_at(1, 3 * i)) - 8),
               high = low * exp(8 * sl_rng_unit(sl_rng_at(1, 3 * i + 1)));
        struct sl_axis axis = {.from = 300, .to = 20, .log = i % 2};
        uint32_t most = 2 + (uint32_t)(sl_rng_at(1, 3 * i + 2) % 12);
        double ticks[SL_PLOT_TICKS];
        sl_axis_fit(&axis, low, high);
        CHECK(axis.low <= low * 1.000001 && axis.high >= high * 0.999999 && axis.high > axis.low);
        uint32_t n = sl_axis_ticks(&axis, most, ticks);
        CHECK(n <= most);
        for (uint32_t k = 0; k < n; k++) {
            CHECK(axis.log ? is_round(ticks[k]) : k == 0 || is_round(ticks[k] - ticks[k - 1]));
            CHECK(k == 0 || ticks[k] > ticks[k - 1]);
            CHECK(ticks[k] >= axis.low - (axis.high - axis.low) * 1e-6 && ticks[k] <= axis.high * 1.00001);
        }
        CHECK(fabs(sl_axis_at(&axis, axis.low) - 300) < 1e-6 &&
              fabs(sl_axis_at(&axis, axis.high) - 20) < 1e-6);
    }
}

SL_TEST(what_is_no_range_becomes_an_axis)
{
    static const double bad[] = {0, 1, -3, 1e300, INFINITY, -INFINITY, NAN};
    for (int i = 0; i < 7; i++)
        for (int k = 0; k < 7; k++)
            for (int log = 0; log < 2; log++) {
                struct sl_axis axis = {.from = 0, .to = 100, .log = log};
                double ticks[SL_PLOT_TICKS];
                sl_axis_fit(&axis, bad[i], bad[k]);
                CHECK(isfinite(axis.low) && isfinite(axis.high) && axis.high > axis.low);
                CHECK(sl_axis_ticks(&axis, 8, ticks) <= 8);
                for (int v = 0; v < 7; v++)
                    CHECK(sl_axis_at(&axis, bad[v]) >= 0 && sl_axis_at(&axis, bad[v]) <= 100);
            }
}

SL_TEST(ticks_have_short_names)
{
    static const struct {
        enum sl_unit unit;
        double value;
        const char *name;
    } cases[] = {{SL_UNIT_MS, 0, "0"},
                 {SL_UNIT_MS, 0.05, "50 µs"},
                 {SL_UNIT_MS, 1, "1 ms"},
                 {SL_UNIT_MS, 200, "200 ms"},
                 {SL_UNIT_MS, 1000, "1 s"},
                 {SL_UNIT_MS, 2500, "2.5 s"},
                 {SL_UNIT_S, 0.5, "500 ms"},
                 {SL_UNIT_S, 20, "20 s"},
                 {SL_UNIT_NONE, 0.2, "0.2"},
                 {SL_UNIT_NONE, 20000, "20k"},
                 {SL_UNIT_PERCENTILE, 1, "0%"},
                 {SL_UNIT_PERCENTILE, 2, "50%"},
                 {SL_UNIT_PERCENTILE, 1000, "99.9%"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[32];
        sl_axis_name(cases[i].unit, cases[i].value, text);
        CHECK_STR(text, cases[i].name);
    }
}

SL_TEST(percentiles_have_the_same_room_for_each_nine)
{
    struct sl_axis axis = {
        .low = 1, .high = 1e5, .from = 0, .to = 500, .log = true, .unit = SL_UNIT_PERCENTILE};
    double ticks[SL_PLOT_TICKS];
    CHECK_INT(sl_axis_ticks(&axis, 16, ticks), 7); /* 0, 50, 90, 99, 99.9, 99.99, 99.999 */
    CHECK(fabs(sl_axis_at(&axis, 10) - 100) < 1e-6 && fabs(sl_axis_at(&axis, 1000) - 300) < 1e-6);
}
