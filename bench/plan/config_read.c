/* A config.json read for its sizes alone (config.h). JSON is YAML, so both go through the reader of yaml.h. */
#include "bench/plan/config.h"
#include "node/command/yaml.h"
#include <stdlib.h>
#include <string.h>

struct config_reading {
    struct sl_plan_config *c;
    const char *name;
    uint32_t n_shared, only_dense, every;
};

/* Ours may be set by several keys, as families name them. */
static const struct {
    const char *key;
    size_t offset;
    uint32_t most;
} sizes[] = {
#define SIZE(key, field, most)                                                                               \
    {                                                                                                        \
        key, offsetof(struct sl_plan_config, field), most                                                    \
    }
    SIZE("num_hidden_layers", layers, SL_LAYERS_MOST),
    SIZE("hidden_size", width, 1 << 20),
    SIZE("vocab_size", vocab, 1 << 24),
    SIZE("max_position_embeddings", context, 1 << 26),
    SIZE("num_attention_heads", heads, 1 << 12),
    SIZE("num_key_value_heads", kv_heads, 1 << 12),
    SIZE("head_dim", head, 1 << 12),
    SIZE("q_lora_rank", q_rank, 1 << 16),
    SIZE("kv_lora_rank", kv_rank, 1 << 16),
    SIZE("qk_rope_head_dim", rope_head, 1 << 12),
    SIZE("qk_nope_head_dim", nope_head, 1 << 12),
    SIZE("v_head_dim", v_head, 1 << 12),
    SIZE("num_experts", experts, 1 << 16),
    SIZE("n_routed_experts", experts, 1 << 16),
    SIZE("num_local_experts", experts, 1 << 16),
    SIZE("num_experts_per_tok", top_k, 1 << 12),
    SIZE("moe_intermediate_size", expert, 1 << 20),
    SIZE("shared_expert_intermediate_size", shared, 1 << 20),
    SIZE("intermediate_size", dense, 1 << 20),
    SIZE("first_k_dense_replace", n_dense, SL_LAYERS_MOST),
#undef SIZE
};

/* They change what a layer does or reads, in ways that no cost here has. */
static const char *const foreign[] = {
    "index_topk",     "full_attention_interval", "linear_num_key_heads",  "mamba_d_state",
    "ssm_state_size", "attn_layer_period",       "sliding_window_pattern"};

static bool whole(const char *text, uint32_t most, uint32_t *value)
{
    char *end;
    double number = strtod(text, &end);
    if (end == text || *end || !(number >= 0) || number > most || number != (double)(uint32_t)number)
        return false;
    *value = (uint32_t)number;
    return true;
}

static bool is_said(const char *value)
{
    return strcmp(value, "null") != 0 && strcmp(value, "false") != 0 && strcmp(value, "~") != 0 && *value;
}

static sl_status take_size(struct config_reading *r, const struct sl_yaml_scalar *s, size_t i,
                           struct sl_err *err)
{
    uint32_t *field = (uint32_t *)((char *)r->c + sizes[i].offset);
    if (!is_said(s->value))
        return SL_OK;
    if (!whole(s->value, sizes[i].most, field))
        return sl_fail(err, SL_E_DATA, "%s, line %zu: %s is %.40s; a whole number up to %u is wanted",
                       r->name, s->line, s->key, s->value, sizes[i].most);
    return SL_OK;
}

static sl_status take(void *user, const struct sl_yaml_scalar *s, struct sl_err *err)
{
    struct config_reading *r = user;
    bool of_text = strncmp(s->path, "text_config.", 12) == 0;
    const char *path = of_text ? s->path + 12 : s->path;
    if (strncmp(path, "mlp_only_layers.", 16) == 0)
        r->only_dense++;
    if (strncmp(path, "layer_types.", 12) == 0 && strcmp(s->value, "full_attention") != 0)
        return sl_fail(
            err, SL_E_UNIMPLEMENTED,
            "%s, line %zu: layers of the kind %.40s are not planned for; only those with full attention",
            r->name, s->line, s->value);
    if (strchr(path, '.'))
        return SL_OK;
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (strcmp(path, foreign[i]) == 0 && is_said(s->value))
            return sl_fail(err, SL_E_UNIMPLEMENTED,
                           "%s, line %zu: %s changes what attention costs, which is not planned for", r->name,
                           s->line, path);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (strcmp(path, sizes[i].key) == 0)
            return take_size(r, s, i, err);
    if (strcmp(path, "n_shared_experts") == 0 && is_said(s->value) && !whole(s->value, 64, &r->n_shared))
        return sl_fail(err, SL_E_DATA, "%s, line %zu: n_shared_experts is %.40s; a number up to 64 is wanted",
                       r->name, s->line, s->value);
    if (strcmp(path, "decoder_sparse_step") == 0 && !whole(s->value, SL_LAYERS_MOST, &r->every))
        return sl_fail(err, SL_E_DATA,
                       "%s, line %zu: decoder_sparse_step is %.40s; a number of layers is wanted", r->name,
                       s->line, s->value);
    if (strcmp(path, "tie_word_embeddings") == 0)
        r->c->tied = strcmp(s->value, "true") == 0;
    return SL_OK;
}

static sl_status missing(const char *name, const char *key, struct sl_err *err)
{
    return sl_fail(err, SL_E_DATA, "%s has no %s; it takes a model's config.json, or YAML with the same keys",
                   name, key);
}

/* What follows from other keys, and what must be there. */
static sl_status complete(struct config_reading *r, struct sl_err *err)
{
    struct sl_plan_config *c = r->c;
    if (c->layers == 0 || c->width == 0 || c->heads == 0 || c->vocab == 0)
        return missing(r->name,
                       c->layers == 0  ? "num_hidden_layers"
                       : c->width == 0 ? "hidden_size"
                       : c->heads == 0 ? "num_attention_heads"
                                       : "vocab_size",
                       err);
    if (c->head == 0)
        c->head = c->width / c->heads;
    if (c->kv_heads == 0)
        c->kv_heads = c->heads;
    if (c->kv_rank > 0 && (c->nope_head == 0 || c->v_head == 0))
        return missing(r->name, c->v_head == 0 ? "v_head_dim" : "qk_nope_head_dim", err);
    if (c->kv_rank > 0)
        c->kv_heads = 0;
    if (c->experts > 0 && (c->top_k == 0 || c->top_k > c->experts))
        return missing(r->name, "num_experts_per_tok (of at most all experts)", err);
    if (c->experts > 0 && c->expert == 0) { /* Mixtral has one width for all */
        c->expert = c->dense;
        c->dense = 0;
    }
    if (c->experts > 0 && r->n_shared > 0)
        c->shared = r->n_shared * c->expert;
    c->n_dense += r->only_dense + (r->every > 1 ? c->layers - c->layers / r->every : 0);
    if (c->n_dense > c->layers)
        c->n_dense = c->layers;
    if ((c->experts > 0 ? c->expert : c->dense) == 0)
        return missing(r->name, c->experts > 0 ? "moe_intermediate_size" : "intermediate_size", err);
    return SL_OK;
}

sl_status sl_plan_config_parse(struct sl_plan_config *c, const char *name, const char *text, size_t bytes,
                               struct sl_err *err)
{
    struct config_reading r = {.c = c, .name = name};
    *c = (struct sl_plan_config){.name = name, .context = 1 << 17};
    SL_TRY(sl_yaml_parse(name, text, bytes, take, &r, err));
    return complete(&r, err);
}

sl_status sl_plan_config_read(struct sl_plan_config *c, const char *path, struct sl_err *err)
{
    struct config_reading r = {.c = c, .name = path};
    *c = (struct sl_plan_config){.name = path, .context = 1 << 17};
    SL_TRY(sl_yaml_read("the shape", path, take, &r, err));
    return complete(&r, err);
}
