/* node/role/role_meter: what a role says of its stage in /metrics. */
#include "base/text.h"
#include "node/role/role_meter.h"
#include "tests/check.h"
#include <stdlib.h>

static void check_says(const struct sl_role_meter *meter, const char *line, bool there)
{
    struct sl_text t = {0};
    sl_role_meter_text(&t, "stage 1", meter);
    if ((strstr(t.data, line) != NULL) != there)
        sl_test_fail(__FILE__, __LINE__, "%s%s: %s", line, there ? "" : " is said", t.data);
    free(t.data);
}

SL_TEST(a_second_ceiling_is_spoken_of_where_a_gpu_has_one)
{
    static struct sl_role_meter meter;
    atomic_store(&meter.mfu_ppm, 250000);
    atomic_store(&meter.mma_ppm, 403000);
    check_says(&meter, "\nsluice_stage_mfu_ratio{role=\"stage 1\"} 0.250000\n", true);
    check_says(&meter, "mma_ratio", false);
    atomic_store(&meter.has_mma, true);
    check_says(&meter, "\nsluice_stage_mfu_mma_ratio{role=\"stage 1\"} 0.403000\n", true);
}
