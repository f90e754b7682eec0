/* Which source tensor goes where (pack_plan_impl.h): the tensor names of qwen3_moe, and the slots
 * of a pack.
 *
 * Finding is also checking. A missing, renamed, wrong-shaped or wrong-typed tensor is named
 * together with what was expected, and whatever nobody took is looked at again: a tensor inside a
 * served layer, or a bias anywhere, means that the checkpoint computes something that we would
 * leave out. */
#include "model/pack/pack_plan_impl.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void shape_text(char *text, size_t bytes, uint32_t rank, const uint64_t *shape)
{
    size_t at = 0;
    text[0] = '\0';
    for (uint32_t i = 0; i < rank && at + 24 < bytes; i++)
        at += (size_t)snprintf(text + at, bytes - at, "%s%llu", i ? ", " : "", (unsigned long long)shape[i]);
}

/* Does the layer of this expert's tensor have all experts in one, as transformers 5 holds them in memory? */
static bool is_fused(const struct sl_index *source, const char *name)
{
    static const char experts[] = ".mlp.experts.", fused[] = "gate_up_proj";
    const char *at = strstr(name, experts);
    char other[200];
    if (!at)
        return false;
    int head = (int)(at - name) + (int)sizeof experts - 1;
    snprintf(other, sizeof other, "%.*s%s", head, name, fused);
    return sl_index_find(source, other) != NULL;
}

/* The tensor of that name with exactly that shape, in a type that we can read. */
static sl_status take(struct sl_pack_plan *plan, const struct sl_tensor **out, uint32_t rank,
                      const uint64_t *shape, const char *name, struct sl_err *err)
{
    char want[80], is[200];
    shape_text(want, sizeof want, rank, shape);
    const struct sl_tensor *t = sl_index_find(plan->source, name);
    if (!t && is_fused(plan->source, name))
        return sl_fail(
            err, SL_E_DATA,
            "tensor '%.100s' is missing, its layer's experts are fused into one tensor (experts.gate_up_proj), "
            "which is not read yet; take the repository as published, or save it with one tensor an expert",
            name);
    if (!t)
        return sl_fail(err, SL_E_DATA,
                       "tensor '%.100s' is missing; expected is [%s] in BF16, F16 or F32: the checkpoint "
                       "is incomplete or its tensors have other names",
                       name, want);
    if (t->type == SL_T_OTHER)
        return sl_fail(
            err, SL_E_DATA,
            "tensor '%.100s' is %s; expected is BF16, F16 or F32 of shape [%s]: take the repository with BF16 weights",
            name, t->dtype, want);
    if (t->rank != rank || memcmp(t->shape, shape, rank * sizeof *shape) != 0) {
        shape_text(is, sizeof is, t->rank, t->shape);
        return sl_fail(err, SL_E_DATA, "tensor '%.100s' has shape [%.80s]; config.json asks for [%s]", name,
                       is, want);
    }
    plan->used[t - plan->source->tensors] = 1;
    *out = t;
    return SL_OK;
}

static struct sl_piece *piece_add(struct sl_pack_plan_file *file, const char *name, enum sl_class class_,
                                  enum sl_piece_kind kind, uint32_t units, uint32_t parts_per_unit)
{
    assert(file->n_pieces < sizeof file->pieces / sizeof *file->pieces);
    struct sl_piece *piece = &file->pieces[file->n_pieces++];
    *piece = (struct sl_piece){
        .class_ = class_, .kind = kind, .units = units, .parts_per_unit = parts_per_unit, .k = 1};
    snprintf(piece->name, sizeof piece->name, "%s", name);
    piece->parts = calloc((size_t)units * parts_per_unit, sizeof *piece->parts);
    return piece->parts ? piece : NULL;
}

static sl_status no_memory(struct sl_err *err)
{
    return sl_fail(err, SL_E_NOMEM, "no memory to plan the pack");
}

/* The next part of a piece: a vector of `rows` when cols is 0, else a matrix; rows add up to the
 * piece's n. */
static sl_status part_add(struct sl_pack_plan *plan, struct sl_piece *piece, uint64_t rows, uint64_t cols,
                          struct sl_err *err, const char *format, ...) __attribute__((format(printf, 6, 7)));
static sl_status part_add(struct sl_pack_plan *plan, struct sl_piece *piece, uint64_t rows, uint64_t cols,
                          struct sl_err *err, const char *format, ...)
{
    char name[128];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    uint64_t shape[2] = {rows, cols};
    assert(piece->n_parts < piece->units * piece->parts_per_unit);
    if (plan->source)
        SL_TRY(take(plan, &piece->parts[piece->n_parts], cols ? 2 : 1, shape, name, err));
    piece->n_parts++;
    if (piece->n_parts <= piece->parts_per_unit) {
        piece->n += (uint32_t)rows;
        piece->rows += (uint32_t)rows;
    }
    piece->k = cols ? (uint32_t)cols : 1;
    return SL_OK;
}

static sl_status vector(struct sl_pack_plan *plan, struct sl_pack_plan_file *file, const char *slot,
                        uint32_t n, const char *source, struct sl_err *err)
{
    struct sl_piece *piece = piece_add(file, slot, SL_CLASS_NORMS, SL_PIECE_VECTOR, 1, 1);
    return piece ? part_add(plan, piece, n, 0, err, "%s", source) : no_memory(err);
}

static sl_status attention(struct sl_pack_plan *plan, struct sl_pack_plan_file *file, uint32_t layer,
                           struct sl_err *err)
{
    const struct sl_shape *s = plan->shape;
    static const char *const slots[] = {"q", "k", "v"};
    const uint32_t rows[] = {s->n_q * s->d_head, s->n_kv * s->d_head, s->n_kv * s->d_head};
    char name[96];
    if (s->qk_norm)
        for (int i = 0; i < 2; i++) {
            char slot[8];
            snprintf(slot, sizeof slot, "%s_norm", slots[i]);
            snprintf(name, sizeof name, "model.layers.%u.self_attn.%s_norm.weight", layer, slots[i]);
            SL_TRY(vector(plan, file, slot, s->d_head, name, err));
        }
    struct sl_piece *qkv = piece_add(file, "qkv", SL_CLASS_ATTENTION, SL_PIECE_PANELS, 1, 3);
    if (!qkv)
        return no_memory(err);
    qkv->site = SL_SITE_QKV;
    for (int i = 0; i < 3; i++)
        SL_TRY(part_add(plan, qkv, rows[i], s->d_model, err, "model.layers.%u.self_attn.%s_proj.weight",
                        layer, slots[i]));
    struct sl_piece *o = piece_add(file, "o", SL_CLASS_ATTENTION, SL_PIECE_PANELS, 1, 1);
    if (!o)
        return no_memory(err);
    o->site = SL_SITE_O;
    return part_add(plan, o, s->d_model, rows[0], err, "model.layers.%u.self_attn.o_proj.weight", layer);
}

/* Gate|up and down of `units` feed-forwards; with `stacked` their names end in an expert number. */
static sl_status feed_forward(struct sl_pack_plan *plan, struct sl_pack_plan_file *file, uint32_t layer,
                              bool stacked, struct sl_err *err)
{
    const struct sl_shape *s = plan->shape;
    uint32_t units = stacked ? s->n_experts : 1, width = stacked ? s->d_expert : s->d_dense;
    struct sl_piece *gate_up =
        piece_add(file, stacked ? "experts.gate_up" : "dense.gate_up",
                  stacked ? SL_CLASS_GATE_UP : SL_CLASS_DENSE, SL_PIECE_PANELS, units, 2);
    struct sl_piece *down = piece_add(file, stacked ? "experts.down" : "dense.down",
                                      stacked ? SL_CLASS_DOWN : SL_CLASS_DENSE, SL_PIECE_PANELS, units, 1);
    if (!gate_up || !down)
        return no_memory(err);
    gate_up->site = stacked ? SL_SITE_EXPERTS_GATE_UP : SL_SITE_SINGLE_GATE_UP;
    down->site = stacked ? SL_SITE_EXPERTS_DOWN : SL_SITE_SINGLE_DOWN;
    gate_up->stacked = down->stacked = stacked;
    gate_up->interleaved = true;
    for (uint32_t e = 0; e < units; e++) {
        char where[80];
        if (stacked)
            snprintf(where, sizeof where, "model.layers.%u.mlp.experts.%u", layer, e);
        else
            snprintf(where, sizeof where, "model.layers.%u.mlp", layer);
        SL_TRY(part_add(plan, gate_up, width, s->d_model, err, "%s.gate_proj.weight", where));
        SL_TRY(part_add(plan, gate_up, width, s->d_model, err, "%s.up_proj.weight", where));
        SL_TRY(part_add(plan, down, s->d_model, width, err, "%s.down_proj.weight", where));
    }
    gate_up->n = 2 * sl_round_lanes(width);
    return SL_OK;
}

static sl_status layer_file(struct sl_pack_plan *plan, struct sl_pack_plan_file *file, uint32_t layer,
                            struct sl_err *err)
{
    const struct sl_shape *s = plan->shape;
    char name[96];
    file->layer = layer;
    snprintf(file->name, sizeof file->name, "layer-%04u.safetensors", layer);
    snprintf(name, sizeof name, "model.layers.%u.input_layernorm.weight", layer);
    SL_TRY(vector(plan, file, "attn_norm", s->d_model, name, err));
    snprintf(name, sizeof name, "model.layers.%u.post_attention_layernorm.weight", layer);
    SL_TRY(vector(plan, file, "ffn_norm", s->d_model, name, err));
    SL_TRY(attention(plan, file, layer, err));
    if (!s->is_moe[layer])
        return feed_forward(plan, file, layer, false, err);
    struct sl_piece *router = piece_add(file, "router", SL_CLASS_ROUTER, SL_PIECE_PANELS, 1, 1);
    if (!router)
        return no_memory(err);
    SL_TRY(part_add(plan, router, s->n_experts, s->d_model, err, "model.layers.%u.mlp.gate.weight", layer));
    return feed_forward(plan, file, layer, true, err);
}

static sl_status embed_file(struct sl_pack_plan *plan, struct sl_pack_plan_file *file, struct sl_err *err)
{
    file->layer = SL_NO_LAYER;
    snprintf(file->name, sizeof file->name, "embed.safetensors");
    struct sl_piece *piece = piece_add(file, "embed", SL_CLASS_EMBED, SL_PIECE_ROWS, 1, 1);
    return piece ? part_add(plan, piece, plan->shape->vocab, plan->shape->d_model, err,
                            "model.embed_tokens.weight")
                 : no_memory(err);
}

/* A tied head is the embedding. A checkpoint that says so and brings another head contradicts
 * itself, and readers differ in which half they believe. */
static sl_status check_tied(struct sl_pack_plan *plan, struct sl_err *err)
{
    const struct sl_tensor *head = sl_index_find(plan->source, "lm_head.weight");
    const struct sl_tensor *embed = sl_index_find(plan->source, "model.embed_tokens.weight");
    if (!head || !embed)
        return SL_OK;
    uint64_t bytes = head->end - head->begin;
    if (head->type != embed->type || bytes != embed->end - embed->begin ||
        memcmp(sl_index_data(plan->source, head), sl_index_data(plan->source, embed), bytes) != 0)
        return sl_fail(err, SL_E_DATA,
                       "tensor 'lm_head.weight' differs from model.embed_tokens.weight although "
                       "config.json says tie_word_embeddings; set it to false or remove the tensor");
    plan->used[head - plan->source->tensors] = 1;
    return SL_OK;
}

static sl_status head_file(struct sl_pack_plan *plan, struct sl_pack_plan_file *file, struct sl_err *err)
{
    const struct sl_shape *s = plan->shape;
    file->layer = SL_NO_LAYER;
    snprintf(file->name, sizeof file->name, "head.safetensors");
    SL_TRY(vector(plan, file, "final_norm", s->d_model, "model.norm.weight", err));
    struct sl_piece *head = piece_add(file, "head", SL_CLASS_HEAD, SL_PIECE_PANELS, 1, 1);
    if (!head)
        return no_memory(err);
    head->site = SL_SITE_HEAD;
    if (s->tied_head && plan->source)
        SL_TRY(check_tied(plan, err));
    return part_add(plan, head, s->vocab, s->d_model, err, "%s",
                    s->tied_head ? "model.embed_tokens.weight" : "lm_head.weight");
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Whether a tensor that no slot took could change the result. Layers beyond the model's are drafts
 * for multi-token prediction, heads and the like outside `model.` belong to other tasks, inv_freq
 * is recomputed from config.json. */
static bool matters(const char *name, uint32_t n_layers)
{
    static const char layers[] = "model.layers.";
    if (ends_with(name, ".rotary_emb.inv_freq"))
        return false;
    if (strncmp(name, layers, sizeof layers - 1) == 0) {
        char *end;
        unsigned long layer = strtoul(name + sizeof layers - 1, &end, 10);
        return end == name + sizeof layers - 1 || *end != '.' || layer < n_layers;
    }
    return strncmp(name, "model.", 6) == 0 || strncmp(name, "lm_head", 7) == 0 || ends_with(name, "bias");
}

static sl_status check_unused(const struct sl_pack_plan *plan, struct sl_err *err)
{
    for (uint32_t i = 0; i < plan->source->n_tensors; i++) {
        const char *name = plan->source->tensors[i].name;
        if (!plan->used[i] && matters(name, plan->shape->n_layers))
            return sl_fail(err, SL_E_DATA,
                           "tensor '%.120s' is unknown for %s and could change the result, so the "
                           "checkpoint is refused",
                           name, plan->shape->model_type);
    }
    return SL_OK;
}

/* bf16 where it is exact. In a stack every expert must begin at a cache line; an odd size that
 * would break this in bf16 is stored in f32, which never does. */
static enum sl_dtype exact_dtype(const struct sl_pack_plan *plan, const struct sl_piece *piece)
{
    if (piece->kind == SL_PIECE_VECTOR)
        return SL_F32;
    if (piece->stacked && sl_panel_bytes(SL_BF16, piece->n, piece->k) % SL_PACK_ALIGN != 0)
        return SL_F32;
    for (uint32_t i = 0; plan->source && i < piece->n_parts; i++) {
        sl_progress_add(plan->progress, piece->parts[i]->end - piece->parts[i]->begin);
        if (!sl_tensor_fits_bf16(plan->source, piece->parts[i]))
            return SL_F32;
    }
    return SL_BF16;
}

static sl_status choose_format(const struct sl_pack_plan *plan, const struct sl_pack_plan_file *file,
                               struct sl_piece *piece, struct sl_err *err)
{
    enum sl_dtype dtype = sl_formats_of(plan->formats, piece->class_, file->layer, plan->shape->n_layers);
    piece->dtype = sl_dtype_is_integer(dtype) ? dtype : exact_dtype(plan, piece);
    if (sl_dtype_is_integer(dtype) && piece->k > SL_QUANT_MAX_K)
        return sl_fail(err, SL_E_DATA,
                       "'%s' has %u inputs; integer formats hold at most %d, so pack the class %s as bf16",
                       piece->name, piece->k, SL_QUANT_MAX_K, sl_class_name(piece->class_));
    return SL_OK;
}

static void lay_out(struct sl_layout *layout, const struct sl_piece *piece)
{
    uint64_t shape[4];
    uint32_t rank = 0;
    if (piece->kind == SL_PIECE_PANELS) {
        if (piece->stacked)
            shape[rank++] = piece->units;
        shape[rank++] = sl_piece_blocks(piece);
        if (sl_dtype_is_integer(piece->dtype)) {
            shape[rank++] = sl_quant_block_bytes(piece->dtype, piece->k);
        } else {
            shape[rank++] = piece->k;
            shape[rank++] = SL_LANES;
        }
    } else {
        shape[rank++] = piece->n;
        if (piece->kind == SL_PIECE_ROWS)
            shape[rank++] = piece->k;
    }
    sl_layout_add(layout, piece->name, piece->dtype, rank, shape);
}

sl_status sl_pack_plan_make(struct sl_pack_plan *plan, const struct sl_shape *shape,
                            const struct sl_formats *formats, const struct sl_index *source,
                            struct sl_progress *progress, struct sl_err *err)
{
    *plan = (struct sl_pack_plan){.shape = shape, .source = source, .formats = formats, .progress = progress};
    SL_TRY(sl_formats_check(formats, shape->n_layers, err));
    plan->used = calloc(source ? source->n_tensors + 1 : 1, 1);
    plan->files = calloc(shape->n_layers + 2, sizeof *plan->files);
    if (!plan->used || !plan->files)
        return no_memory(err);
    plan->n_files = shape->n_layers + 2;
    SL_TRY(embed_file(plan, &plan->files[0], err));
    for (uint32_t i = 0; i < shape->n_layers; i++)
        SL_TRY(layer_file(plan, &plan->files[1 + i], i, err));
    SL_TRY(head_file(plan, &plan->files[plan->n_files - 1], err));
    if (source)
        SL_TRY(check_unused(plan, err));
    for (uint32_t i = 0; i < plan->n_files; i++)
        for (uint32_t j = 0; j < plan->files[i].n_pieces; j++) {
            SL_TRY(choose_format(plan, &plan->files[i], &plan->files[i].pieces[j], err));
            lay_out(&plan->files[i].layout, &plan->files[i].pieces[j]);
        }
    return SL_OK;
}

void sl_pack_plan_free(struct sl_pack_plan *plan)
{
    for (uint32_t i = 0; i < plan->n_files; i++)
        for (uint32_t j = 0; j < plan->files[i].n_pieces; j++)
            free(plan->files[i].pieces[j].parts);
    free(plan->files);
    free(plan->used);
    *plan = (struct sl_pack_plan){0};
}

uint64_t sl_pack_plan_bytes(const struct sl_pack_plan *plan)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < plan->n_files; i++)
        total += sl_layout_data_bytes(&plan->files[i].layout) + 2 * SL_PACK_PAGE;
    return total;
}

/* ---- what the manifest says ---- */

/* The format of a class in one file, "" when it has none. Floats go by the whole class: f32 when
 * any file stores f32. */
static void file_format(const struct sl_pack_plan *plan, const struct sl_pack_plan_file *file,
                        enum sl_class class_, bool any_f32, char text[SL_FORMAT_ROOM])
{
    struct sl_format format = {.dtype = any_f32 ? SL_F32 : SL_BF16};
    bool found = false;
    for (uint32_t i = 0; i < file->n_pieces; i++) {
        const struct sl_piece *piece = &file->pieces[i];
        if (piece->class_ != class_)
            continue;
        found = true;
        if (sl_dtype_is_integer(piece->dtype)) {
            format.dtype = piece->dtype;
            format.digits = sl_formats_digits(plan->formats, piece->dtype);
        }
        if (piece->rotation) /* each has its own block; what is recorded is the limit */
            format.rotation = SL_ROTATION_BLOCK;
    }
    text[0] = '\0';
    if (found)
        sl_format_print(format, text);
}

static bool has_f32(const struct sl_pack_plan *plan, enum sl_class class_)
{
    for (uint32_t i = 0; i < plan->n_files; i++)
        for (uint32_t j = 0; j < plan->files[i].n_pieces; j++)
            if (plan->files[i].pieces[j].class_ == class_ && plan->files[i].pieces[j].dtype == SL_F32)
                return true;
    return false;
}

/* The class has the format of most of its files, the first of them at a tie; the others are
 * exceptions. */
static bool class_formats(const struct sl_pack_plan *plan, enum sl_class class_,
                          char (*texts)[SL_FORMAT_ROOM], json_t *formats)
{
    uint32_t most = 0, base = 0;
    bool any_f32 = has_f32(plan, class_), sound = true;
    for (uint32_t i = 0; i < plan->n_files; i++)
        file_format(plan, &plan->files[i], class_, any_f32, texts[i]);
    for (uint32_t i = 0; i < plan->n_files; i++) {
        uint32_t same = 0;
        for (uint32_t j = 0; j < plan->n_files; j++)
            same += texts[i][0] && strcmp(texts[i], texts[j]) == 0;
        if (same > most) {
            most = same;
            base = i;
        }
    }
    if (most == 0)
        return true;
    sound &= json_object_set_new(formats, sl_class_name(class_), json_string(texts[base])) == 0;
    for (uint32_t i = 0; i < plan->n_files; i++)
        if (plan->files[i].layer != SL_NO_LAYER && texts[i][0] && strcmp(texts[i], texts[base]) != 0) {
            char key[64];
            snprintf(key, sizeof key, "%s@%u", sl_class_name(class_), plan->files[i].layer);
            sound &= json_object_set_new(formats, key, json_string(texts[i])) == 0;
        }
    return sound;
}

json_t *sl_pack_plan_formats(const struct sl_pack_plan *plan)
{
    json_t *formats = json_object();
    char(*texts)[SL_FORMAT_ROOM] = calloc(plan->n_files, sizeof *texts);
    bool sound = formats && texts;
    for (int c = 0; sound && c < SL_CLASSES; c++)
        sound = class_formats(plan, (enum sl_class)c, texts, formats);
    free(texts);
    if (!sound) {
        json_decref(formats);
        formats = NULL;
    }
    return formats;
}
