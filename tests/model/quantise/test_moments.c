/* Moments of inputs against their definition in doubles: as they are, rotated, all products; rows that are no
 * numbers; and the same sums however the rows are handed over. */
#include "base/rng.h"
#include "model/quantise/moments.h"
#include "tests/check.h"
#include <math.h>
#include <stdlib.h>

enum { K = 48, BLOCK = 16, ROWS = 37 };

static float x[ROWS * K];

static void draw(void)
{
    struct sl_rng rng = {.seed = 3};
    for (int i = 0; i < ROWS * K; i++)
        x[i] = (float)(sl_rng_unit(sl_rng_next(&rng)) - 0.4) * (float)(1 + i % K);
}

/* Row r as quantising sees it. */
static void row_of(int r, uint32_t rotation, double *y)
{
    float copy[K];
    memcpy(copy, x + r * K, sizeof copy);
    if (rotation)
        sl_ops_ref.rotate(copy, K, rotation);
    for (int i = 0; i < K; i++)
        y[i] = copy[i];
}

static void check_close(double got, double wanted, double scale)
{
    if (!(fabs(got - wanted) <= 1e-5 * scale))
        sl_test_fail(__FILE__, __LINE__, "%g is not %g", got, wanted);
}

static void check_against_definition(const struct sl_input_moments *m, uint32_t rotation)
{
    static double h[K * K], wanted[K * K];
    float weight[K];
    double step2 = 0, mean = 0;
    memset(wanted, 0, sizeof wanted);
    for (int r = 0; r < ROWS; r++) {
        double y[K], max = 0;
        row_of(r, rotation, y);
        for (int i = 0; i < K; i++) {
            max = fabs(y[i]) > max ? fabs(y[i]) : max;
            for (int j = 0; j < K; j++)
                wanted[i * K + j] += y[i] * y[j] / ROWS;
        }
        step2 += max / 127 * (max / 127) / ROWS;
    }
    for (int i = 0; i < K; i++)
        mean += wanted[i * K + i] / K;
    sl_input_moments_weight(m, rotation, weight);
    for (int i = 0; i < K; i++)
        check_close(weight[i], wanted[i * K + i] > mean * 1e-4 ? wanted[i * K + i] : mean * 1e-4, mean);
    check_close(sl_input_moments_step2(m, rotation), step2, step2);
    if (m->width != K)
        return;
    sl_input_moments_matrix(m, rotation, h);
    for (int i = 0; i < K * K; i++)
        check_close(h[i], wanted[i], mean);
}

SL_TEST(moments_are_their_definition)
{
    draw();
    for (int full = 0; full < 2; full++) {
        struct sl_input_moments m;
        REQUIRE(sl_input_moments_init(&m, K, full, NULL) == SL_OK);
        CHECK_INT(m.block, BLOCK);
        sl_input_moments_add(&m, &sl_ops_ref, x, ROWS);
        CHECK_INT(m.rows, ROWS);
        check_against_definition(&m, 0);
        check_against_definition(&m, BLOCK);
        sl_input_moments_fini(&m);
        CHECK(!m.sums);
    }
}

SL_TEST(rows_with_a_nan_are_left_out)
{
    struct sl_input_moments m;
    float rows[3 * K];
    draw();
    memcpy(rows, x, sizeof rows);
    rows[K + 5] = NAN;
    rows[2 * K] = -INFINITY;
    REQUIRE(sl_input_moments_init(&m, K, true, NULL) == SL_OK);
    sl_input_moments_add(&m, &sl_ops_ref, rows, 3);
    CHECK_INT(m.rows, 1);
    for (int i = 0; i < K * K; i++)
        CHECK(m.sums[i] == x[i / K] * x[i % K]);
    sl_input_moments_fini(&m);
}

/* An odd width has no rotation, and an input that is always zero gets the floor. */
SL_TEST(odd_widths_and_idle_inputs)
{
    struct sl_input_moments m;
    float rows[5] = {3, 0, 1, 2, 1}, weight[5];
    REQUIRE(sl_input_moments_init(&m, 5, false, NULL) == SL_OK);
    CHECK_INT(m.block, 0);
    CHECK_INT(m.width, 1);
    sl_input_moments_add(&m, &sl_ops_ref, rows, 1);
    sl_input_moments_weight(&m, 0, weight);
    CHECK(weight[0] == 9 && weight[2] == 1);
    CHECK(weight[1] == (float)(3.0 * 1e-4)); /* the mean is 15 / 5 */
    sl_input_moments_fini(&m);
}
