/* The file in which a stage's cost is kept. What is taken is sane, and to the byte what we would write of it. */
#include "pipeline/stage/cost_store.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static const char key[] = "a processor\nmodel 1234\n";
    struct sl_measured_cost m;
    char again[SL_COST_FILE];
    if (sl_cost_parse(&m, key, (const char *)data, bytes))
        return 0;
    sl_cost_render(&m, key, again);
    bool good = strlen(again) == bytes && !memcmp(again, data, bytes) && m.n_points <= SL_COST_POINTS &&
                m.cost.hit >= 0 && m.cost.hit <= 1;
    for (int i = 0; i < SL_COST_TERMS; i++)
        good = good && m.cost.us[i] >= 0 && m.cost.us[i] <= SL_COST_MOST_US;
    if (!good)
        abort();
    return 0;
}
