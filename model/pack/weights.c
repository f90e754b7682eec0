/* Binding: a layer range of a pack becomes views (weights.h).
 *
 * Only the files of the range are mapped, read-only and shared, so a stage's resident memory is its
 * own layers and processes on one machine share the pages. Every dtype, shape and alignment is
 * checked against the switches here, once, so that kernels need no checks. Views point into the
 * mappings; closing unmaps them all. */
#include "model/pack/weights.h"
#include "base/clock.h"
#include "model/pack/weights_impl.h"
#include <stdio.h>
#include <stdlib.h>

/* What a binding step needs to know: the file, and whose it is for the error. */
struct binder {
    const struct sl_pack *pack;
    const struct sl_shape *shape;
    const struct sl_index *index;
    const char *file;
    uint32_t layer; /* SL_NO_LAYER: embedding, head */
    struct sl_err *err;
};

static sl_status map_file(struct sl_weights_files *maps, uint32_t number, uint32_t layer, bool is_embed,
                          struct sl_err *err)
{
    const struct sl_pack_file *file = &sl_pack_manifest(maps->pack)->files[number];
    struct sl_weights_file *f = &maps->files[maps->n];
    *f = (struct sl_weights_file){.file = file, .layer = layer, .is_embed = is_embed};
    f->path = sl_path_join(sl_pack_path(maps->pack), file->name);
    if (!f->path)
        return sl_fail(err, SL_E_NOMEM, "no memory to map %.60s", file->name);
    maps->n++;
    SL_TRY(sl_index_map_file(&f->index, f->path, err));
    f->opened_ns = sl_clock_ns();
    f->mapping = sl_mapping_declare(f->index.files[0].map, f->index.files[0].bytes, f->path);
    if (!f->mapping || fstat(f->index.files[0].fd, &f->known) != 0)
        return sl_fail(err, SL_E_NOMEM, "no memory to map %.60s", file->name);
    if (f->index.files[0].bytes != file->bytes)
        return sl_fail(err, SL_E_DATA,
                       "%.140s: %.60s changed its size while it was opened; pack the "
                       "checkpoint again",
                       sl_pack_path(maps->pack), file->name);
    return SL_OK;
}

/* What a tensor may hold. */
enum allowed { F32_ONLY, FLOATS, BYTES };

static const char *type_fault(const struct sl_tensor *t, enum allowed allowed)
{
    if (allowed == BYTES)
        return strcmp(t->dtype, "U8") == 0 ? NULL : "is not U8, as the format in pack.json asks for";
    if (t->type == SL_T_F32 || (allowed == FLOATS && t->type == SL_T_BF16))
        return NULL;
    return allowed == FLOATS ? "is neither BF16 nor F32" : "is not F32";
}

/* A tensor of the mapped file with exactly this shape, in a type that is allowed, at a cache line.
 */
static sl_status bind(const struct binder *b, const char *name, enum allowed allowed, uint32_t rank,
                      const uint64_t *shape, const struct sl_tensor **out)
{
    const struct sl_tensor *t = sl_index_find(b->index, name);
    const char *fault = t ? type_fault(t, allowed) : "is missing";
    if (!fault && (t->rank != rank || memcmp(t->shape, shape, rank * sizeof *shape) != 0))
        fault = "has another shape than config.json and its format ask for";
    if (!fault && t->begin % SL_PACK_ALIGN != 0)
        fault = "does not begin at a multiple of 64 bytes";
    if (fault)
        return sl_fail(b->err, SL_E_DATA, "%.120s: tensor '%s' of %.60s %s; pack the checkpoint again",
                       sl_pack_path(b->pack), name, b->file, fault);
    *out = t;
    return SL_OK;
}

static sl_status bind_vector(const struct binder *b, const char *name, uint64_t n, const float **out)
{
    const struct sl_tensor *t;
    SL_TRY(bind(b, name, F32_ONLY, 1, &n, &t));
    *out = sl_index_data(b->index, t);
    return SL_OK;
}

/* A panel in the integer format that the manifest names. A block's bytes are part of its shape, and
 * the reader of safetensors has compared shapes with extents: nothing is left to be believed.
 * Blocks are multiples of 64 bytes. */
static sl_status bind_integers(const struct binder *b, struct sl_format format, const char *name,
                               uint32_t units, struct sl_panel *panel)
{
    uint64_t shape[3] = {units, sl_round_lanes(panel->n) / SL_LANES,
                         sl_quant_block_bytes(format.dtype, panel->k)};
    const struct sl_tensor *t;
    if (panel->k > SL_QUANT_MAX_K)
        return sl_fail(b->err, SL_E_DATA,
                       "%.120s: '%s' of %.60s has %u inputs, more than an integer format holds; "
                       "pack it as bf16",
                       sl_pack_path(b->pack), name, b->file, panel->k);
    SL_TRY(bind(b, name, BYTES, units ? 3 : 2, units ? shape : shape + 1, &t));
    panel->data = sl_index_data(b->index, t);
    panel->dtype = format.dtype;
    panel->rotation = sl_rotation_of(format.rotation, panel->k);
    panel->digits = format.digits;
    return SL_OK;
}

static sl_status bind_floats(const struct binder *b, const char *name, uint32_t units, struct sl_panel *panel)
{
    uint64_t shape[4] = {units, sl_round_lanes(panel->n) / SL_LANES, panel->k, SL_LANES};
    const struct sl_tensor *t;
    SL_TRY(bind(b, name, FLOATS, units ? 4 : 3, units ? shape : shape + 1, &t));
    panel->data = sl_index_data(b->index, t);
    panel->dtype = t->type == SL_T_BF16 ? SL_BF16 : SL_F32;
    if (units && sl_panel_bytes(panel->dtype, panel->n, panel->k) % SL_PACK_ALIGN != 0)
        return sl_fail(b->err, SL_E_DATA,
                       "%.120s: the experts of '%s' in %.60s are not multiples of 64 bytes; pack the "
                       "checkpoint again",
                       sl_pack_path(b->pack), name, b->file);
    return SL_OK;
}

/* A panel of n outputs; `units` > 0: the first of a stack. */
static sl_status bind_panel(const struct binder *b, enum sl_class class_, const char *name, uint32_t units,
                            uint32_t n, uint32_t k, struct sl_panel *panel)
{
    struct sl_format format = sl_manifest_format(sl_pack_manifest(b->pack), class_, b->layer);
    *panel = (struct sl_panel){.n = n, .k = k};
    return sl_dtype_is_integer(format.dtype) ? bind_integers(b, format, name, units, panel)
                                             : bind_floats(b, name, units, panel);
}

static sl_status bind_ffn(const struct binder *b, const char *prefix, uint32_t units, uint32_t width,
                          struct sl_ffn *ffn)
{
    char name[32];
    snprintf(name, sizeof name, "%s.gate_up", prefix);
    SL_TRY(bind_panel(b, units ? SL_CLASS_GATE_UP : SL_CLASS_DENSE, name, units, 2 * sl_round_lanes(width),
                      b->shape->d_model, &ffn->gate_up));
    snprintf(name, sizeof name, "%s.down", prefix);
    return bind_panel(b, units ? SL_CLASS_DOWN : SL_CLASS_DENSE, name, units, b->shape->d_model, width,
                      &ffn->down);
}

static sl_status bind_moe(const struct binder *b, struct sl_layer *layer)
{
    const struct sl_shape *s = b->shape;
    layer->is_moe = true;
    SL_TRY(bind_panel(b, SL_CLASS_ROUTER, "router", 0, s->n_experts, s->d_model, &layer->router));
    SL_TRY(bind_ffn(b, "experts", s->n_experts, s->d_expert, &layer->expert0));
    const struct sl_panel *gate_up = &layer->expert0.gate_up, *down = &layer->expert0.down;
    layer->gate_up_stride = sl_panel_bytes(gate_up->dtype, gate_up->n, gate_up->k);
    layer->down_stride = sl_panel_bytes(down->dtype, down->n, down->k);
    if (s->d_shared == 0)
        return SL_OK;
    layer->has_shared = true;
    SL_TRY(bind_ffn(b, "shared", 0, s->d_shared, &layer->shared));
    return s->shared_gate ? bind_vector(b, "shared.gate", s->d_model, &layer->shared_gate) : SL_OK;
}

static sl_status bind_layer(const struct binder *b, uint32_t number, struct sl_layer *layer)
{
    const struct sl_shape *s = b->shape;
    uint32_t q = s->n_q * s->d_head, rows = (s->n_q + 2 * s->n_kv) * s->d_head;
    SL_TRY(bind_vector(b, "attn_norm", s->d_model, &layer->attn_norm));
    SL_TRY(bind_vector(b, "ffn_norm", s->d_model, &layer->ffn_norm));
    if (s->qk_norm) {
        SL_TRY(bind_vector(b, "q_norm", s->d_head, &layer->q_norm));
        SL_TRY(bind_vector(b, "k_norm", s->d_head, &layer->k_norm));
    }
    if (s->qkv_bias)
        SL_TRY(bind_vector(b, "qkv_bias", rows, &layer->qkv_bias));
    SL_TRY(bind_panel(b, SL_CLASS_ATTENTION, "qkv", 0, rows, s->d_model, &layer->qkv));
    SL_TRY(bind_panel(b, SL_CLASS_ATTENTION, "o", 0, s->d_model, q, &layer->o));
    return s->is_moe[number] ? bind_moe(b, layer) : bind_ffn(b, "dense", 0, s->d_dense, &layer->dense);
}

static sl_status bind_embed(const struct binder *b, struct sl_weights *weights)
{
    uint64_t shape[2] = {b->shape->vocab, b->shape->d_model};
    const struct sl_tensor *t;
    SL_TRY(bind(b, "embed", FLOATS, 2, shape, &t));
    weights->embed = sl_index_data(b->index, t);
    weights->embed_dtype = t->type == SL_T_BF16 ? SL_BF16 : SL_F32;
    return SL_OK;
}

static sl_status bind_head(const struct binder *b, struct sl_weights *weights)
{
    SL_TRY(bind_vector(b, "final_norm", b->shape->d_model, &weights->final_norm));
    return bind_panel(b, SL_CLASS_HEAD, "head", 0, b->shape->vocab, b->shape->d_model, &weights->head);
}

static sl_status map_all(struct sl_weights *w, struct sl_weights_files *maps, bool with_embed, bool with_head,
                         struct sl_err *err)
{
    const struct sl_manifest *m = sl_pack_manifest(maps->pack);
    if (with_embed)
        SL_TRY(map_file(maps, m->embed, SL_NO_LAYER, true, err));
    for (uint32_t i = w->begin; i < w->end; i++)
        SL_TRY(map_file(maps, m->layers[i], i, false, err));
    if (with_head)
        SL_TRY(map_file(maps, m->head, SL_NO_LAYER, false, err));
    for (uint32_t i = 0; i < maps->n; i++)
        w->mapped_bytes += maps->files[i].file->bytes;
    return SL_OK;
}

/* Headers are read when their bytes have been verified. */
static sl_status bind_all(struct sl_weights *w, struct sl_weights_files *maps, struct sl_err *err)
{
    for (uint32_t i = 0; i < maps->n; i++) {
        struct sl_weights_file *f = &maps->files[i];
        SL_TRY(sl_index_read_header(&f->index, err));
        struct binder b = {maps->pack, sl_pack_shape(maps->pack), &f->index, f->file->name, f->layer, err};
        if (f->layer != SL_NO_LAYER)
            SL_TRY(bind_layer(&b, f->layer, &w->layers[f->layer - w->begin]));
        else if (f->is_embed)
            SL_TRY(bind_embed(&b, w));
        else
            SL_TRY(bind_head(&b, w));
    }
    return SL_OK;
}

static sl_status open_all(struct sl_weights *w, struct sl_weights_files *maps, bool with_embed,
                          bool with_head, const struct sl_loading *options, struct sl_err *err)
{
    SL_TRY(map_all(w, maps, with_embed, with_head, err));
    SL_TRY(sl_weights_verify(maps, options, err));
    return bind_all(w, maps, err);
}

sl_status sl_weights_open(struct sl_weights *weights, const struct sl_pack *pack, uint32_t begin,
                          uint32_t end, bool with_embed, bool with_head, const struct sl_loading *options,
                          struct sl_err *err)
{
    static const struct sl_loading plain = {0};
    *weights = (struct sl_weights){.begin = begin, .end = end};
    uint32_t n_layers = sl_pack_shape(pack)->n_layers;
    if (begin > end || end > n_layers)
        return sl_fail(err, SL_E_INVALID, "layers %u..%u are not in this pack; it has layers 0..%u", begin,
                       end, n_layers);
    struct sl_weights_files *maps = calloc(1, sizeof *maps);
    weights->private_maps = maps;
    weights->layers = calloc(end - begin + 1, sizeof *weights->layers);
    if (maps) {
        maps->pack = pack;
        maps->files = calloc(end - begin + 2, sizeof *maps->files);
    }
    sl_status status = maps && maps->files && weights->layers
                           ? open_all(weights, maps, with_embed, with_head, options ? options : &plain, err)
                           : sl_fail(err, SL_E_NOMEM, "no memory to map layers %u..%u", begin, end);
    if (status != SL_OK)
        sl_weights_close(weights);
    return status;
}

void sl_weights_close(struct sl_weights *weights)
{
    struct sl_weights_files *maps = weights->private_maps;
    if (maps)
        sl_weights_verify_end(maps);
    for (uint32_t i = 0; maps && i < maps->n; i++) {
        sl_mapping_forget(maps->files[i].mapping);
        sl_index_close(&maps->files[i].index);
        free(maps->files[i].path);
        free(maps->files[i].own);
    }
    if (maps)
        free(maps->files);
    free(maps);
    free(weights->layers);
    *weights = (struct sl_weights){0};
}

/* ---- what it takes ---- */

static void account_panel(struct sl_class_use *use, const struct sl_panel *panel, uint64_t units,
                          uint64_t rows)
{
    use->weights += units * rows * panel->k;
    use->bytes += units * sl_panel_bytes(panel->dtype, panel->n, panel->k);
}

static void account_ffn(struct sl_class_use *gate_up, struct sl_class_use *down, const struct sl_ffn *ffn,
                        uint64_t units, uint64_t width)
{
    account_panel(gate_up, &ffn->gate_up, units, 2 * width);
    account_panel(down, &ffn->down, units, ffn->down.n);
}

static void account_vector(struct sl_class_use *use, const float *vector, uint64_t n)
{
    use->weights += vector ? n : 0;
    use->bytes += vector ? n * sizeof *vector : 0;
}

static void account_layer(const struct sl_layer *layer, const struct sl_shape *s, struct sl_class_use *uses)
{
    account_panel(&uses[SL_CLASS_ATTENTION], &layer->qkv, 1, layer->qkv.n);
    account_panel(&uses[SL_CLASS_ATTENTION], &layer->o, 1, layer->o.n);
    account_vector(&uses[SL_CLASS_NORMS], layer->attn_norm, s->d_model);
    account_vector(&uses[SL_CLASS_NORMS], layer->ffn_norm, s->d_model);
    account_vector(&uses[SL_CLASS_NORMS], layer->q_norm, s->d_head);
    account_vector(&uses[SL_CLASS_NORMS], layer->k_norm, s->d_head);
    account_vector(&uses[SL_CLASS_NORMS], layer->qkv_bias, layer->qkv.n);
    account_vector(&uses[SL_CLASS_NORMS], layer->shared_gate, s->d_model);
    struct sl_class_use *dense = &uses[SL_CLASS_DENSE];
    if (!layer->is_moe) {
        account_ffn(dense, dense, &layer->dense, 1, s->d_dense);
        return;
    }
    account_panel(&uses[SL_CLASS_ROUTER], &layer->router, 1, layer->router.n);
    account_ffn(&uses[SL_CLASS_GATE_UP], &uses[SL_CLASS_DOWN], &layer->expert0, s->n_experts, s->d_expert);
    if (layer->has_shared)
        account_ffn(dense, dense, &layer->shared, 1, s->d_shared);
}

void sl_weights_account(const struct sl_weights *weights, const struct sl_shape *shape,
                        struct sl_class_use uses[SL_CLASSES])
{
    for (uint32_t i = weights->begin; i < weights->end; i++)
        account_layer(&weights->layers[i - weights->begin], shape, uses);
    if (weights->embed) {
        uint64_t n = (uint64_t)shape->vocab * shape->d_model;
        uses[SL_CLASS_EMBED].weights += n;
        uses[SL_CLASS_EMBED].bytes += n * sl_dtype_bytes(weights->embed_dtype);
    }
    if (weights->head.data) {
        account_panel(&uses[SL_CLASS_HEAD], &weights->head, 1, weights->head.n);
        account_vector(&uses[SL_CLASS_NORMS], weights->final_norm, shape->d_model);
    }
}
