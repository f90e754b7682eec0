/* Models of source.h: what lies in a pack, or follows from sizes. */
#include "bench/plan/source.h"
#include "attention/kv.h"
#include "model/pack/weights.h"
#include <math.h>
#include <string.h>

/* As it lies in the pack, a layer at a time. */
static sl_status take_bytes(struct sl_planner_model *m, const struct sl_pack *pack, const char *kv,
                            struct sl_err *err)
{
    const struct sl_shape *s = sl_pack_shape(pack);
    double kv_bytes =
        (double)sl_kv_layer_bytes(&(struct sl_kv_layout){1, s->n_kv, s->d_head, sl_pack_kv_dtype(pack, kv)});
    for (uint32_t i = 0; i < m->n_layers; i++) {
        struct sl_class_use uses[SL_CLASSES] = {{0}};
        struct sl_weights weights;
        SL_TRY(sl_weights_open(&weights, pack, i, i + 1, false, false,
                               &(struct sl_loading){.verify = SL_VERIFY_OFF}, err));
        sl_weights_account(&weights, s, uses);
        sl_weights_close(&weights);
        double experts = (double)uses[SL_CLASS_GATE_UP].bytes + (double)uses[SL_CLASS_DOWN].bytes;
        m->layers[i].expert_bytes = experts;
        m->layers[i].always_bytes = fmax((double)sl_pack_layer_bytes(pack, i) - experts, 0);
        m->layers[i].kv_bytes = kv_bytes / SL_PAGE;
    }
    m->embed_bytes = (double)sl_pack_embed_bytes(pack);
    m->head_bytes = (double)sl_pack_head_bytes(pack);
    return SL_OK;
}

static double kv_bytes_of(const char *kv)
{
    return strcmp(kv, "f32") == 0 ? 4 : strcmp(kv, "i8") == 0 ? 1 + 1.0 / 32 : 2;
}

static sl_status take_config(struct sl_plan_report *r, const struct sl_plan_config *c,
                             const struct sl_plan_model_options *o)
{
    double bits = o->bits > 0 ? o->bits : 8;
    struct sl_plan_format format = {bits, o->expert_bits > 0 ? o->expert_bits : bits, kv_bytes_of(o->kv)};
    sl_plan_model_of(&r->model, c, &format);
    r->parameters = sl_plan_parameters(c);
    snprintf(r->assumed, sizeof r->assumed, "weights of %.4g bits, experts of %.4g", format.bits,
             format.expert_bits);
    return SL_OK;
}

/* The last part of a path, which tells models apart. */
static void name_by_path(struct sl_planner_model *m, const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t from = n;
    while (from > 0 && path[from - 1] != '/')
        from--;
    snprintf(m->name, sizeof m->name, "%.*s", (int)(n - from), path + from);
}

static sl_status take_shape(struct sl_plan_report *r, const struct sl_plan_model_options *o,
                            struct sl_err *err)
{
    const struct sl_plan_config *known = sl_plan_shape_find(o->shape);
    struct sl_plan_config c;
    char names[320];
    if (known)
        return take_config(r, known, o);
    if (!strchr(o->shape, '/') && !strchr(o->shape, '.')) {
        sl_plan_shape_names(names, sizeof names);
        return sl_fail(err, SL_E_USAGE, "--shape %.60s is none that is known (%s), and no file", o->shape,
                       names);
    }
    SL_TRY(sl_plan_config_read(&c, o->shape, err));
    take_config(r, &c, o);
    name_by_path(&r->model, o->shape);
    return SL_OK;
}

static sl_status take_path(struct sl_plan_report *r, struct sl_pack **pack,
                           const struct sl_plan_model_options *o, struct sl_err *err)
{
    struct sl_plan_config c;
    struct sl_shape shape;
    char config[4096];
    if (sl_pack_is_pack(o->path)) {
        SL_TRY(sl_pack_open(pack, o->path, err));
        sl_plan_config_of(&c, sl_pack_shape(*pack));
        take_config(r, &c, o);
        name_by_path(&r->model, o->path);
        snprintf(r->assumed, sizeof r->assumed, "weights as in the pack");
        return take_bytes(&r->model, *pack, o->kv, err);
    }
    snprintf(config, sizeof config, "%s/config.json", o->path);
    if (sl_shape_load(&shape, o->path, NULL) == SL_OK)
        sl_plan_config_of(&c, &shape);
    else /* of a family that is not served it can be planned all the same */
        SL_TRY(sl_plan_config_read(&c, config, err));
    take_config(r, &c, o);
    name_by_path(&r->model, o->path);
    return SL_OK;
}

sl_status sl_plan_source_model(struct sl_plan_report *r, struct sl_pack **pack,
                               const struct sl_plan_model_options *o, struct sl_err *err)
{
    *pack = NULL;
    return o->path ? take_path(r, pack, o, err) : take_shape(r, o, err);
}
