/* The histogram against the values themselves, sorted. */
#include "base/rng.h"
#include "bench/serve/histogram.h"
#include "tests/check.h"
#include <math.h>
#include <stdlib.h>

static struct sl_histogram *new_histogram(void)
{
    struct sl_histogram *histogram;
    struct sl_err err;
    if (sl_histogram_new(&histogram, &err) != SL_OK)
        abort();
    return histogram;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* From 1 us to 1 h, as many in each power of ten. */
static uint64_t draw(struct sl_rng *rng)
{
    return (uint64_t)(1000 * pow(3.6e9, sl_rng_unit(sl_rng_next(rng))));
}

SL_TEST(every_quantile_is_the_nearest_rank_to_a_thousandth)
{
    enum { N = 20000 };
    uint64_t *values = malloc(N * sizeof *values);
    struct sl_histogram *histogram = new_histogram();
    struct sl_rng rng = {1, 0};
    for (uint32_t i = 0; i < N; i++)
        sl_histogram_add(histogram, values[i] = draw(&rng));
    qsort(values, N, sizeof *values, by_value);
    for (uint32_t i = 1; i <= N; i++) {
        uint64_t kept = sl_histogram_quantile(histogram, (double)i / N), exact = values[i - 1];
        CHECK(kept >= exact && (double)(kept - exact) <= 0.001 * (double)exact);
    }
    CHECK_INT(sl_histogram_quantile(histogram, 1), values[N - 1]);
    CHECK_INT(sl_histogram_quantile(histogram, 0), sl_histogram_quantile(histogram, 1.0 / N));
    CHECK_INT(sl_histogram_count(histogram), N);
    sl_histogram_free(histogram);
    free(values);
}

SL_TEST(every_value_is_kept_to_a_thousandth_at_the_edges_of_powers_too)
{
    for (int power = 10; power < 42; power++)
        for (int64_t step = -1; step <= 1; step++) {
            uint64_t value = (uint64_t)((1ll << power) + step);
            struct sl_histogram *histogram = new_histogram();
            sl_histogram_add(histogram, value);
            sl_histogram_add(histogram, 3600000000000); /* else the maximum, which is exact, would be told */
            uint64_t kept = sl_histogram_quantile(histogram, 0.5), least = value < 1000 ? 1000 : value;
            if (value < 3600000000000)
                CHECK(kept >= least && (double)(kept - least) <= 0.001 * (double)least);
            sl_histogram_free(histogram);
        }
}

SL_TEST(what_is_too_small_or_too_large_is_counted_at_the_ends)
{
    struct sl_histogram *histogram = new_histogram();
    sl_histogram_add(histogram, 0);
    sl_histogram_add(histogram, 999);
    sl_histogram_add(histogram, UINT64_MAX);
    CHECK_INT(sl_histogram_count(histogram), 3);
    CHECK_INT(sl_histogram_quantile(histogram, 0.5), 1000);
    CHECK_INT(sl_histogram_quantile(histogram, 1), 3600000000000);
    sl_histogram_free(histogram);
}

enum { TEXT = 1 << 16 };

static void text_of(const struct sl_histogram *histogram, char text[TEXT])
{
    FILE *to = fmemopen(text, TEXT, "w");
    if (!to)
        abort();
    sl_histogram_write(histogram, to);
    if (fclose(to) != 0)
        abort();
}

SL_TEST(merged_histograms_are_the_histogram_of_all)
{
    struct sl_histogram *all = new_histogram(), *merged = new_histogram(), *parts[3];
    struct sl_rng rng = {2, 0};
    for (int i = 0; i < 3; i++)
        parts[i] = new_histogram();
    for (uint32_t i = 0; i < 3000; i++) {
        uint64_t value = draw(&rng);
        sl_histogram_add(all, value);
        sl_histogram_add(parts[i % 7 % 3], value);
    }
    sl_histogram_add_failed(all, 5);
    sl_histogram_add_failed(parts[1], 5);
    for (int i = 2; i >= 0; i--)
        sl_histogram_merge(merged, parts[i]);
    static char a[TEXT], b[TEXT];
    text_of(all, a);
    text_of(merged, b);
    CHECK_STR(b, a);
    CHECK_INT(sl_histogram_count(merged), 3005);
    for (double q = 0; q <= 1; q += 0.001)
        CHECK(sl_histogram_quantile(all, q) == sl_histogram_quantile(merged, q));
    for (int i = 0; i < 3; i++)
        sl_histogram_free(parts[i]);
    sl_histogram_free(merged);
    sl_histogram_free(all);
}

SL_TEST(failed_ones_lie_above_all_values)
{
    struct sl_histogram *histogram = new_histogram();
    CHECK_INT(sl_histogram_quantile(histogram, 0.5), 0);
    for (int i = 0; i < 98; i++)
        sl_histogram_add(histogram, 2000000);
    sl_histogram_add_failed(histogram, 2);
    CHECK_INT(sl_histogram_count(histogram), 100);
    CHECK_INT(sl_histogram_quantile(histogram, 0.98), 2000000);
    CHECK(sl_histogram_quantile(histogram, 0.99) == UINT64_MAX);
    sl_histogram_free(histogram);
    sl_histogram_free(NULL);
}

SL_TEST(the_text_is_what_plotters_read)
{
    struct sl_histogram *histogram = new_histogram();
    sl_histogram_add(histogram, 1000000);
    sl_histogram_add(histogram, 1000000);
    sl_histogram_add(histogram, 1000000);
    sl_histogram_add(histogram, 5000000);
    static char text[TEXT];
    text_of(histogram, text);
    /* steps: 1 ms lies in one of 512 ns, 5 ms is the exact maximum; mean and deviation by the middles of steps */
    CHECK_STR(text, "       Value     Percentile TotalCount 1/(1-Percentile)\n"
                    "\n"
                    "       1.000 0.000000000000          3           1.00\n"
                    "       1.000 0.100000000000          3           1.11\n"
                    "       1.000 0.200000000000          3           1.25\n"
                    "       1.000 0.300000000000          3           1.43\n"
                    "       1.000 0.400000000000          3           1.67\n"
                    "       1.000 0.500000000000          3           2.00\n"
                    "       1.000 0.550000000000          3           2.22\n"
                    "       1.000 0.600000000000          3           2.50\n"
                    "       1.000 0.650000000000          3           2.86\n"
                    "       1.000 0.700000000000          3           3.33\n"
                    "       1.000 0.750000000000          3           4.00\n"
                    "       5.000 1.000000000000          4\n"
                    "#[Mean    =        2.000, StdDeviation   =        1.732]\n"
                    "#[Max     =        5.000, Total count    =            4]\n"
                    "#[Buckets =           32, SubBuckets     =         2048]\n");
    sl_histogram_free(histogram);
}

/* As a plotter does: lines of four columns that don't begin with # are points. */
static uint32_t read_points(char *text, double *last_value, double *last_q, double *last_count)
{
    uint32_t n = 0;
    double value, q, up_to, inverse, before = 0;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (line[0] == '#' || sscanf(line, "%lf %lf %lf %lf", &value, &q, &up_to, &inverse) != 4)
            continue;
        CHECK(value >= before && q >= 0 && q < 1 && fabs(inverse - 1 / (1 - q)) <= 0.005 + 1e-6 * inverse);
        before = *last_value = value;
        *last_q = q;
        *last_count = up_to;
        n++;
    }
    return n;
}

SL_TEST(the_text_of_many_goes_to_the_last_one_and_says_what_failed)
{
    struct sl_histogram *histogram = new_histogram();
    for (uint32_t i = 1; i <= 100000; i++)
        sl_histogram_add(histogram, i * 1000ull);
    double value, q, up_to;
    static char text[TEXT];
    text_of(histogram, text);
    uint32_t n = read_points(text, &value, &q, &up_to);
    CHECK(n > 50 && n < 60);
    CHECK(q > 0.999 && value > 99.8); /* some 65 values are in the last step */
    sl_histogram_add_failed(histogram, 100000);
    text_of(histogram, text);
    CHECK_CONTAINS(text, "Total count    =       200000]");
    CHECK_CONTAINS(text, "#[Failed  =       100000, above all values]");
    CHECK(!strstr(text, " 1.000000000000 "));
    read_points(text, &value, &q, &up_to);
    CHECK(q <= 0.5 && up_to <= 100000);
    sl_histogram_free(histogram);
    histogram = new_histogram(); /* nothing, and nothing but failed ones: still a file */
    sl_histogram_add_failed(histogram, 3);
    text_of(histogram, text);
    CHECK_CONTAINS(text, "#[Mean    =        0.000");
    CHECK_INT(read_points(text, &value, &q, &up_to), 0);
    sl_histogram_free(histogram);
}
