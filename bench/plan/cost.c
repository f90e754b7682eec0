/* What a layer costs, from a file of `sluice calibrate --json` (source.h). */
#include "bench/plan/source.h"
#include "node/command/yaml.h"
#include <stdlib.h>
#include <string.h>

static const double least_of_last =
    0.1; /* of a layer: what the model's last costs where only K and V are made */

void sl_plan_layer_of(struct sl_cost *cost, double n_layers, bool has_last)
{
    double whole = has_last && n_layers > 1 ? n_layers - 1 + least_of_last : n_layers;
    for (int t = 0; t < SL_COST_TERMS; t++)
        cost->us[t] /= t == SL_COST_E ? 1 : t == SL_COST_C ? n_layers : whole;
}

enum { STAGE_NUMBERS = SL_COST_NUMBERS };
static const char *const coefficient_names[STAGE_NUMBERS] = {"c", "gamma", "b", "a", "w", "e", "hit"};

struct cost_reading {
    const char *name;
    uint32_t n;
    struct {
        double numbers[STAGE_NUMBERS];
        uint32_t has, begin, end;
    } stages[SL_MAX_STAGES];
};

static sl_status take_cost(void *user, const struct sl_yaml_scalar *s, struct sl_err *err)
{
    struct cost_reading *r = user;
    unsigned k;
    int n = 0;
    char *end;
    if (sscanf(s->path, "stages.%5u.%n", &k, &n) != 1 || n == 0)
        return SL_OK;
    const char *rest = s->path + n;
    if (k >= SL_MAX_STAGES)
        return sl_fail(err, SL_E_DATA, "%s, line %zu: there are more than %d stages", r->name, s->line,
                       SL_MAX_STAGES);
    double value = strtod(s->value, &end);
    r->n = k + 1 > r->n ? k + 1 : r->n;
    bool is_layer = strcmp(rest, "layers.0") == 0 || strcmp(rest, "layers.1") == 0;
    bool is_number = end != s->value && !*end;
    if (is_layer && (!is_number || !(value >= 0) || value > SL_LAYERS_MOST))
        return sl_fail(err, SL_E_DATA, "%s, line %zu: %s is %.40s, which is no layer", r->name, s->line,
                       s->path, s->value);
    if (is_layer)
        *(rest[7] == '0' ? &r->stages[k].begin : &r->stages[k].end) = (uint32_t)value;
    for (uint32_t i = 0; i < STAGE_NUMBERS && strncmp(rest, "coefficients.", 13) == 0; i++)
        if (strcmp(rest + 13, coefficient_names[i]) == 0) {
            if (!is_number)
                return sl_fail(err, SL_E_DATA, "%s, line %zu: %s is %.40s, which is no number", r->name,
                               s->line, s->path, s->value);
            r->stages[k].numbers[i] = value;
            r->stages[k].has |= 1u << i;
        }
    return SL_OK;
}

static sl_status mean_of(struct sl_plan_measured *m, const struct cost_reading *r, struct sl_err *err)
{
    uint32_t counted = r->n > 1 ? r->n - 1 : r->n;
    double layers = 0;
    *m = (struct sl_plan_measured){.n_stages = r->n};
    for (uint32_t k = 0; k < r->n; k++) {
        struct sl_cost cost;
        if (r->stages[k].has != (1u << STAGE_NUMBERS) - 1 || r->stages[k].begin >= r->stages[k].end ||
            !sl_cost_take(&cost, r->stages[k].numbers, STAGE_NUMBERS))
            return sl_fail(
                err, SL_E_DATA,
                "%s: stage %u has no layers and coefficients that make a cost; `sluice calibrate --json` "
                "writes them",
                r->name, k);
        m->n_layers = r->stages[k].end > m->n_layers ? r->stages[k].end : m->n_layers;
        if (r->stages[k].begin != m->begin[k])
            return sl_fail(err, SL_E_DATA,
                           "%s: stage %u begins with layer %u, and the one before ends with %u", r->name, k,
                           r->stages[k].begin, m->begin[k]);
        m->begin[k + 1] = r->stages[k].end;
        m->stages[k] = m->layers[k] = cost;
        sl_plan_layer_of(&m->layers[k], r->stages[k].end - r->stages[k].begin, k + 1 == r->n);
        m->layer.us[SL_COST_E] = cost.us[SL_COST_E]; /* of the last stage: no other has any */
        if (k >= counted)
            continue;
        layers += r->stages[k].end - r->stages[k].begin;
        for (int t = 0; t < SL_COST_E; t++)
            m->layer.us[t] += cost.us[t];
        m->layer.hit = cost.hit;
    }
    if (layers == 0)
        return sl_fail(err, SL_E_DATA, "%s has no stages; `sluice calibrate --json` writes such a file",
                       r->name);
    sl_plan_layer_of(&m->layer, layers, r->n == 1);
    for (uint32_t k = 0; k < r->n; k++)
        m->layers[k].us[SL_COST_E] = m->layer.us[SL_COST_E];
    return SL_OK;
}

sl_status sl_plan_cost_parse(struct sl_plan_measured *m, const char *name, const char *text, size_t bytes,
                             struct sl_err *err)
{
    struct cost_reading r = {.name = name};
    SL_TRY(sl_yaml_parse(name, text, bytes, take_cost, &r, err));
    return mean_of(m, &r, err);
}

sl_status sl_plan_cost_read(struct sl_plan_measured *m, const char *path, struct sl_err *err)
{
    struct cost_reading r = {.name = path};
    SL_TRY(sl_yaml_read("the file of costs", path, take_cost, &r, err));
    return mean_of(m, &r, err);
}
