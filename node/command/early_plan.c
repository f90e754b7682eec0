/* What can be refused by config.json alone is refused before a checkpoint is packed, which takes hours for a large one: a context
 * beyond the model's, more stages than layers, a KV pool that holds no context. */
#include "model/pack/pack_cache.h"
#include "model/shape.h"
#include "node/command/serving_options.h"
#include "pipeline/stage/stage.h"
#include <stdlib.h>
#include <unistd.h>

sl_status sl_plan_early(const char *model, const struct sl_plan_options *options, struct sl_err *err)
{
    struct sl_shape *shape = malloc(sizeof *shape);
    struct sl_plan plan;
    char config[4096];
    sl_status status = SL_OK;
    snprintf(config, sizeof config, "%s/config.json", model);
    if (shape &&
        access(config, R_OK) == 0) { /* otherwise whoever opens the model says what is wrong with it */
        status = sl_shape_load(shape, model, err);
        if (status == SL_OK)
            status = sl_plan_for_shape(&plan, shape, options, err);
    }
    free(shape);
    return status;
}
