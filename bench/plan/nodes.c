/* The reader of a nodes file (nodes.h): every key of a group once, then bounds, then the group's nodes. */
#include "bench/plan/nodes.h"
#include "node/command/yaml.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum key { DEVICES, MEMORY, MATRIX, ATTENTION, SPEED, INNER, LAYER, SKEW, GBIT, LATENCY, COUNT, NUMBERS };

/* What numbers may be; `positive`: 0 is no node at all. */
static const struct {
    const char *name;
    double most;
    bool positive, whole;
} numbers[NUMBERS] = {
    [DEVICES] = {"devices", 1024, true, true},
    [MEMORY] = {"memory-gb", 1e6, true, false},
    [MATRIX] = {"matrix-tflops", 1e6, true, false},
    [ATTENTION] = {"attention-tflops", 1e6, true, false},
    [SPEED] = {"memory-gbs", 1e7, true, false},
    [INNER] = {"inner-gbs", 1e6, false, false},
    [LAYER] = {"layer-us", 1e6, false, false},
    [SKEW] = {"skew", 1000, true, false},
    [GBIT] = {"gbit", 1e6, true, false},
    [LATENCY] = {"latency-us", 1e7, false, false},
    [COUNT] = {"count", SL_PLANNER_NODES, true, true},
};

struct node_group {
    size_t line;
    bool has[NUMBERS];
    double value[NUMBERS];
    char name[SL_PLANNER_NAME];
    const struct sl_plan_kind *kind;
};

struct nodes_reading {
    const char *file;
    struct sl_planner_node *nodes;
    uint32_t n_nodes, index;       /* index: of the group that is being read; UINT32_MAX: none */
    struct node_group group, link; /* link: only GBIT and LATENCY */
};

static sl_status take_number(const struct nodes_reading *r, struct node_group *g,
                             const struct sl_yaml_scalar *s, int key, struct sl_err *err)
{
    char *end;
    double value = strtod(s->value, &end);
    if (g->has[key])
        return sl_fail(err, SL_E_CONFIG, "%s, line %zu: %s is given twice; leave one out", r->file, s->line,
                       s->key);
    if (end == s->value || *end || !(value >= 0) || value > numbers[key].most ||
        (numbers[key].positive && value <= 0) || (numbers[key].whole && value != (double)(uint32_t)value))
        return sl_fail(err, SL_E_CONFIG, "%s, line %zu: %s is %.40s; a%s number %s %g is wanted", r->file,
                       s->line, s->key, s->value, numbers[key].whole ? " whole" : "",
                       numbers[key].positive ? "above 0 and up to" : "from 0 to", numbers[key].most);
    g->has[key] = true;
    g->value[key] = value;
    return SL_OK;
}

static sl_status take_kind(struct nodes_reading *r, const struct sl_yaml_scalar *s, struct sl_err *err)
{
    char names[160];
    sl_plan_kind_names(names, sizeof names);
    if (r->group.kind)
        return sl_fail(
            err, SL_E_CONFIG,
            "%s, line %zu: a node of two kinds, %s and %.40s; it is of one, or each has an entry of its own",
            r->file, s->line, r->group.kind->name, s->value);
    r->group.kind = sl_plan_kind_find(s->value);
    if (!r->group.kind)
        return sl_fail(err, SL_E_CONFIG,
                       "%s, line %zu: the kind %.40s is not known (%s); give its rates instead", r->file,
                       s->line, s->value, names);
    return SL_OK;
}

/* ---- a group into nodes ---- */

static double of(const struct node_group *g, int key, double otherwise)
{
    return g->has[key] ? g->value[key] : otherwise;
}

void sl_plan_nodes_of(struct sl_planner_node *node, const struct sl_plan_kind *kind)
{
    double n = kind->devices;
    *node = (struct sl_planner_node){.devices = kind->devices,
                                     .memory_bytes = n * kind->memory_gb * 1e9,
                                     .matrix_flops = n * kind->matrix_tflops * 1e12,
                                     .attention_flops = n * kind->attention_tflops * 1e12,
                                     .memory_speed = n * kind->memory_gbs * 1e9,
                                     .inner_speed = kind->inner_gbs * 1e9,
                                     .skew = 1,
                                     .layer_us = kind->layer_us,
                                     .link_speed = kind->gbit / 8 * 1e9,
                                     .link_us = 20,
                                     .rates = kind->rates};
    snprintf(node->name, sizeof node->name, "%s", kind->name);
}

static sl_status finish(struct nodes_reading *r, struct sl_err *err)
{
    const struct node_group *g = &r->group;
    if (r->index == UINT32_MAX)
        return SL_OK;
    for (int key = MEMORY; key <= SPEED && !g->kind; key++)
        if (!g->has[key])
            return sl_fail(err, SL_E_CONFIG,
                           "%s, line %zu: this node has no %s; give it, or a kind whose rates are known",
                           r->file, g->line, numbers[key].name);
    static const struct sl_plan_kind nameless = {.name = "node", .devices = 1, .gbit = 0};
    const struct sl_plan_kind *kind = g->kind ? g->kind : &nameless;
    struct sl_plan_kind own = {.name = *g->name ? g->name : kind->name,
                               .rates = kind->rates,
                               .devices = (uint32_t)of(g, DEVICES, kind->devices),
                               .memory_gb = of(g, MEMORY, kind->memory_gb),
                               .matrix_tflops = of(g, MATRIX, kind->matrix_tflops),
                               .attention_tflops = of(g, ATTENTION, kind->attention_tflops),
                               .memory_gbs = of(g, SPEED, kind->memory_gbs),
                               .inner_gbs = of(g, INNER, kind->inner_gbs),
                               .layer_us = of(g, LAYER, kind->layer_us),
                               .gbit = of(g, GBIT, of(&r->link, GBIT, kind->gbit))};
    uint32_t count = (uint32_t)of(g, COUNT, 1);
    if (count > SL_PLANNER_NODES - r->n_nodes)
        return sl_fail(err, SL_E_CONFIG, "%s, line %zu: there are more than %d nodes; name fewer", r->file,
                       g->line, SL_PLANNER_NODES);
    for (uint32_t i = 0; i < count; i++) {
        struct sl_planner_node *node = &r->nodes[r->n_nodes++];
        sl_plan_nodes_of(node, &own);
        node->skew = of(g, SKEW, 1);
        node->link_us = of(g, LATENCY, of(&r->link, LATENCY, node->link_us));
    }
    return SL_OK;
}

/* ---- the file ---- */

static sl_status take_group(struct nodes_reading *r, const struct sl_yaml_scalar *s, struct sl_err *err)
{
    uint32_t index = (uint32_t)strtoul(s->path + 6, NULL, 10);
    if (index != r->index) {
        SL_TRY(finish(r, err));
        r->group = (struct node_group){.line = s->line};
        r->index = index;
    }
    if (s->depth == 3 && strcmp(s->key, "kind") == 0)
        return take_kind(r, s, err);
    if (s->depth == 3 && strcmp(s->key, "name") == 0) {
        snprintf(r->group.name, sizeof r->group.name, "%s", s->value);
        return SL_OK;
    }
    for (int key = 0; s->depth == 3 && key < NUMBERS; key++)
        if (strcmp(s->key, numbers[key].name) == 0)
            return take_number(r, &r->group, s, key, err);
    return sl_fail(err, SL_E_CONFIG,
                   "%s, line %zu: %.60s is nothing that a node has; `sluice plan --help` lists what it has",
                   r->file, s->line, s->path);
}

static sl_status take(void *user, const struct sl_yaml_scalar *s, struct sl_err *err)
{
    struct nodes_reading *r = user;
    if (strncmp(s->path, "nodes.", 6) == 0)
        return take_group(r, s, err);
    if (strcmp(s->path, "link.gbit") == 0)
        return take_number(r, &r->link, s, GBIT, err);
    if (strcmp(s->path, "link.latency-us") == 0)
        return take_number(r, &r->link, s, LATENCY, err);
    return sl_fail(
        err, SL_E_CONFIG,
        "%s, line %zu: %.60s is not known; a nodes file has `nodes`, a list, and `link`, with gbit and "
        "latency-us",
        r->file, s->line, s->path);
}

/* The link may stand behind the nodes: it is read first. */
static sl_status take_link(void *user, const struct sl_yaml_scalar *s, struct sl_err *err)
{
    return strncmp(s->path, "link", 4) == 0 ? take(user, s, err) : SL_OK;
}

static sl_status take_nodes(void *user, const struct sl_yaml_scalar *s, struct sl_err *err)
{
    return strncmp(s->path, "link", 4) == 0 ? SL_OK : take(user, s, err);
}

static sl_status done(struct nodes_reading *r, uint32_t *n_nodes, sl_status status, struct sl_err *err)
{
    SL_TRY(status);
    SL_TRY(finish(r, err));
    *n_nodes = r->n_nodes;
    if (r->n_nodes == 0)
        return sl_fail(err, SL_E_CONFIG, "%s names no node; it has `nodes`, a list", r->file);
    return SL_OK;
}

sl_status sl_plan_nodes_parse(struct sl_planner_node *nodes, uint32_t *n_nodes, const char *name,
                              const char *text, size_t bytes, struct sl_err *err)
{
    struct nodes_reading r = {.file = name, .nodes = nodes, .index = UINT32_MAX};
    SL_TRY(sl_yaml_parse(name, text, bytes, take_link, &r, err));
    return done(&r, n_nodes, sl_yaml_parse(name, text, bytes, take_nodes, &r, err), err);
}

sl_status sl_plan_nodes_read(struct sl_planner_node *nodes, uint32_t *n_nodes, const char *path,
                             struct sl_err *err)
{
    struct nodes_reading r = {.file = path, .nodes = nodes, .index = UINT32_MAX};
    SL_TRY(sl_yaml_read("the nodes file", path, take_link, &r, err));
    return done(&r, n_nodes, sl_yaml_read("the nodes file", path, take_nodes, &r, err), err);
}
