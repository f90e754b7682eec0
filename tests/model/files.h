/* What the tests of model/ share: files written from memory, and a tiny Qwen3-MoE checkpoint made
 * in C.
 *
 * The checkpoint has odd sizes, one dense layer among MoE layers, and values that name their place
 * (value_at), so that a test can say what must lie at every position of a pack without running the
 * code under test. A `twist` changes one thing, and the test says how the reader must answer. */
#ifndef SL_TESTS_MODEL_FILES_H
#define SL_TESTS_MODEL_FILES_H

#include "kernels/panel.h"
#include "tests/check.h"
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { H = 24, I = 10, DENSE = 18, HEAD = 8, NQ = 4, NKV = 2, E = 3, LAYERS = 2, VOCAB = 37 };

/* Is there as long as the program runs. */
static inline const char *path_in(const char *dir, const char *name)
{
    static struct path {
        struct path *before;
        char text[1024];
    } * last;
    struct path *path = malloc(sizeof *path);
    path->before = last;
    last = path;
    snprintf(path->text, sizeof path->text, "%s/%s", dir, name);
    return path->text;
}

static inline void write_bytes(const char *path, const void *data, size_t bytes)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, bytes, f) != bytes)
        abort();
    fclose(f);
}

static inline void write_text(const char *path, const char *text)
{
    write_bytes(path, text, strlen(text));
}

static inline char *read_text(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        abort();
    char *text = calloc(1, 1 << 20);
    *bytes = fread(text, 1, (1 << 20) - 1, f);
    fclose(f);
    return text;
}

/* Length, header, data. */
static inline void write_safetensors(const char *path, const char *header, const void *data, size_t bytes)
{
    uint64_t n = strlen(header);
    char *all = malloc(8 + n + bytes);
    memcpy(all, &n, 8);
    memcpy(all + 8, header, n);
    memcpy(all + 8 + n, data, bytes);
    write_bytes(path, all, 8 + n + bytes);
    free(all);
}

static inline uint32_t name_hash(const char *name)
{
    uint32_t h = 2166136261u;
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 16777619u;
    return h;
}

/* A bf16 value that depends on tensor, row and column: k/128 with odd-looking k in -255..255. */
static inline float value_at(const char *name, uint32_t row, uint32_t column)
{
    uint32_t x = (name_hash(name) + row * 2654435761u + column * 40503u) * 2246822519u;
    return (float)((int)(x >> 20) % 256 - 128) / 128.0f;
}

enum dtype { AS_BF16, AS_F16, AS_F32 };

struct checkpoint {
    char header[65536];
    uint8_t data[1 << 19];
    size_t header_bytes, data_bytes;
    enum dtype dtype;
    const char *skip;   /* leave this tensor out */
    const char *rename; /* call it otherwise ("...X") */
    const char *poison; /* put these bits (f32) into its last value */
    uint32_t poison_bits;
    const char *retype;  /* claim I32/U16 for it */
    const char *reshape; /* claim another shape of the same size */
    const char *extra;   /* add a one-element tensor of this name */
    bool tied, tied_differs;
};

static inline uint16_t f32_to_f16(float f) /* normal numbers and zero only */
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7FFFFFFFu) == 0)
        return (uint16_t)(u >> 16);
    return (uint16_t)(((u >> 16) & 0x8000u) | ((((u >> 23) & 255u) - 112u) << 10) | ((u >> 13) & 1023u));
}

static inline void put_value(struct checkpoint *c, float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t h = c->dtype == AS_F16 ? f32_to_f16(f) : (uint16_t)(u >> 16);
    size_t n = c->dtype == AS_F32 ? 4 : 2;
    memcpy(c->data + c->data_bytes, c->dtype == AS_F32 ? (void *)&u : (void *)&h, n);
    c->data_bytes += n;
}

static inline bool is_named(const char *option, const char *name)
{
    return option && strcmp(option, name) == 0;
}

/* columns 0: a vector */
static inline void add_tensor(struct checkpoint *c, const char *name, uint32_t rows, uint32_t columns)
{
    static const char *const names[] = {"BF16", "F16", "F32"};
    if (is_named(c->skip, name))
        return;
    size_t begin = c->data_bytes;
    bool copy_embed = c->tied && strcmp(name, "lm_head.weight") == 0 && !c->tied_differs;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t k = 0; k < (columns ? columns : 1); k++)
            put_value(c, value_at(copy_embed ? "model.embed_tokens.weight" : name, r, k));
    if (is_named(c->poison, name)) {
        uint32_t n = c->dtype == AS_F32 ? 4 : 2, bits = c->poison_bits >> (c->dtype == AS_F32 ? 0 : 16);
        memcpy(c->data + c->data_bytes - n, &bits, n);
    }
    const char *dtype = is_named(c->retype, name) ? (c->dtype == AS_F32 ? "I32" : "U16") : names[c->dtype];
    char shape[64];
    if (columns && is_named(c->reshape, name))
        snprintf(shape, sizeof shape, "%u,%u", columns, rows);
    else if (columns)
        snprintf(shape, sizeof shape, "%u,%u", rows, columns);
    else
        snprintf(shape, sizeof shape, "%u", rows);
    c->header_bytes +=
        (size_t)snprintf(c->header + c->header_bytes, sizeof c->header - c->header_bytes,
                         "%c\"%s%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                         c->header_bytes ? ',' : '{', name, is_named(c->rename, name) ? "X" : "", dtype,
                         shape, begin, c->data_bytes);
}

static inline void add_feed_forward(struct checkpoint *c, const char *where, uint32_t width)
{
    static const char *const parts[] = {"gate", "up", "down"};
    char name[192];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s.%s_proj.weight", where, parts[i]);
        add_tensor(c, name, i == 2 ? H : width, i == 2 ? width : H);
    }
}

static inline void add_layer(struct checkpoint *c, uint32_t layer)
{
    static const struct {
        const char *name;
        uint32_t rows, columns;
    } t[] = {{"input_layernorm", H, 0},           {"post_attention_layernorm", H, 0},
             {"self_attn.q_norm", HEAD, 0},       {"self_attn.k_norm", HEAD, 0},
             {"self_attn.q_proj", NQ * HEAD, H},  {"self_attn.k_proj", NKV * HEAD, H},
             {"self_attn.v_proj", NKV * HEAD, H}, {"self_attn.o_proj", H, NQ * HEAD}};
    char name[128];
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        snprintf(name, sizeof name, "model.layers.%u.%s.weight", layer, t[i].name);
        add_tensor(c, name, t[i].rows, t[i].columns);
    }
    if (layer == 0) {
        add_feed_forward(c, "model.layers.0.mlp", DENSE);
        return;
    }
    snprintf(name, sizeof name, "model.layers.%u.mlp.gate.weight", layer);
    add_tensor(c, name, E, H);
    for (uint32_t e = 0; e < E; e++) {
        snprintf(name, sizeof name, "model.layers.%u.mlp.experts.%u", layer, e);
        add_feed_forward(c, name, I);
    }
}

static inline void write_config(const char *dir, bool tied)
{
    char text[2048];
    snprintf(text, sizeof text,
             "{\"model_type\":\"qwen3_moe\",\"architectures\":[\"Qwen3MoeForCausalLM\"],"
             "\"hidden_size\":%d,\"num_hidden_layers\":%d,\"num_attention_heads\":%d,"
             "\"num_key_value_heads\":%d,\"head_dim\":%d,\"vocab_size\":%d,\"num_experts\":%d,"
             "\"num_experts_per_tok\":2,\"moe_intermediate_size\":%d,\"intermediate_size\":%d,"
             "\"max_position_embeddings\":128,\"mlp_only_layers\":[0],\"tie_word_embeddings\":%s,"
             "\"norm_topk_prob\":true}",
             H, LAYERS, NQ, NKV, HEAD, VOCAB, E, I, DENSE, tied ? "true" : "false");
    write_text(path_in(dir, "config.json"), text);
}

/* The checkpoint with its twists, as DIR/model.safetensors and config.json. */
static inline void checkpoint_write(struct checkpoint *c, const char *dir)
{
    mkdir(dir, 0755);
    add_tensor(c, "model.embed_tokens.weight", VOCAB, H);
    for (uint32_t i = 0; i < LAYERS; i++)
        add_layer(c, i);
    add_tensor(c, "model.norm.weight", H, 0);
    if (!c->tied || c->tied_differs)
        add_tensor(c, "lm_head.weight", VOCAB, H);
    if (c->extra)
        add_tensor(c, c->extra, 1, 0);
    strcat(c->header, "}");
    write_safetensors(path_in(dir, "model.safetensors"), c->header, c->data, c->data_bytes);
    write_config(dir, c->tied);
}

/* The checkpoint without a twist, but that its head may be its embedding, in the folder of the test: where. */
static inline const char *checkpoint_plain(bool tied)
{
    const char *dir = path_in(sl_test_dir(), "src");
    struct checkpoint *c = calloc(1, sizeof *c);
    c->tied = tied;
    checkpoint_write(c, dir);
    free(c);
    return dir;
}

/* Some bytes of a file to others, as many. */
static inline void change_text(const char *path, const char *from, const char *to)
{
    size_t bytes;
    char *text = read_text(path, &bytes), *place = memmem(text, bytes, from, strlen(from));
    if (!place || strlen(from) != strlen(to))
        abort();
    memcpy(place, to, strlen(to));
    write_bytes(path, text, bytes);
    free(text);
}

/* Changes one byte of a file. */
static inline void flip_byte(const char *path, long offset)
{
    FILE *f = fopen(path, "r+b");
    if (!f || fseek(f, offset, SEEK_SET) != 0)
        abort();
    int byte = fgetc(f);
    fseek(f, offset, SEEK_SET);
    fputc(byte ^ 1, f);
    fclose(f);
}

static inline bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

#endif
