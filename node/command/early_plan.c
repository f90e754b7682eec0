/* What can be refused by config.json alone is refused before a checkpoint is packed, which takes hours for a large one: a context
 * beyond the model's, more stages than layers, a KV pool that holds no context; and for who serves, too few descriptors. */
#include "model/pack/pack_cache.h"
#include "model/shape.h"
#include "node/command/serving_options.h"
#include "node/rpc/door.h"
#include "pipeline/stage/stage.h"
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* A process has some 30 descriptors of gRPC, UCX and its own, one for each file of weights that it maps, and some for each
 * neighbour; of the rest the door keeps a reserve and takes connections with what is left. The soft limit is raised to the hard one by whoever listens. */
enum { FILES_OF_A_PROCESS = 40, FILES_OF_A_NEIGHBOUR = 2 };

static sl_status check_files(const struct sl_shape *shape, uint32_t n_stages, struct sl_err *err)
{
    struct rlimit limit;
    uint64_t used = FILES_OF_A_PROCESS + shape->n_layers + (uint64_t)FILES_OF_A_NEIGHBOUR * (n_stages + 1);
    uint64_t need = used;
    uint32_t total;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || sl_door_plan(limit.rlim_max, used, &total) > 0)
        return SL_OK;
    while (sl_door_plan(need, used, &total) == 0)
        need++;
    return sl_fail(
        err, SL_E_CONFIG,
        "a process may have %llu files open here, and a node of this pipeline needs %llu; raise the hard "
        "limit (ulimit -Hn, LimitNOFILE= of systemd)",
        (unsigned long long)limit.rlim_max, (unsigned long long)need);
}

static sl_status plan_early(const char *model, const struct sl_plan_options *options, bool serves,
                            struct sl_err *err)
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
        if (status == SL_OK && serves)
            status = check_files(shape, options->n_stages, err);
    }
    free(shape);
    return status;
}

sl_status sl_plan_early(const char *model, const struct sl_plan_options *options, struct sl_err *err)
{
    return plan_early(model, options, true, err);
}

sl_status sl_plan_early_alone(const char *model, const struct sl_plan_options *options, struct sl_err *err)
{
    return plan_early(model, options, false, err);
}
