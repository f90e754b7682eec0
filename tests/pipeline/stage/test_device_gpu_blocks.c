/* kernels/gpu/device.h without a pack: layers as a family may have them and no pack does so far (biases of q|k|v, a shared expert
 * with its gate and without, in formats of its own), and in the sizes that models have (heads, groups of heads, dense layers between
 * the others), drawn, on the twins of a GPU and on the CPU: the same rows, pages and logits. A hundredth of SLUICE_SEEDS: so
 * many drawn models beside those that are named. */
#include "attention/kv.h"
#include "base/log.h"
#include "kernels/gpu/device.h"
#include "pipeline/stage/device_impl.h"
#include "tests/check.h"
#define DRAW_SEED 20261201
#include "tests/kernels/draw.h"
#include <math.h>

enum {
    D_MODEL = 96,
    EXPERTS = 5,
    TOP_K = 2,
    VOCAB = 41,
    LAYERS_MOST = 4,
    SLICES_MOST = 3,
    PAGES = 3, /* of a sequence */
    ROWS_MOST = 96,
    HEAD_ROWS = 7,
    PIECES_MOST = 64
};

/* What a layer's feed-forward is made of, one letter a layer: "dmsg". */
enum { DENSE = 'd', MOE = 'm', SHARED = 's', SHARED_GATED = 'g' };

struct panel_kind {
    enum sl_dtype dtype;
    uint32_t rotation, digits;
};

struct model {
    uint32_t n_q, n_kv, d_head;
    bool bias, qk_norm;
    const char *layers;
    enum sl_dtype kv;
    struct panel_kind attention, routed, single, head;
    uint32_t d_expert, d_dense, d_shared;
};

/* ---- weights at random ---- */

struct drawn_blocks {
    struct sl_layer_blocks layers[LAYERS_MOST];
    struct sl_device_weights all;
    void *pieces[PIECES_MOST];
    size_t bytes[PIECES_MOST];
    uint32_t n_pieces, n_brought;
};

static void *piece(struct drawn_blocks *w, size_t bytes)
{
    if (w->n_pieces == PIECES_MOST)
        abort();
    w->bytes[w->n_pieces] = bytes;
    return w->pieces[w->n_pieces++] = take(bytes);
}

/* They come to a device one by one (struct sl_device_source). */
static sl_status bring(void *arg, void *to, const void **from, size_t *bytes, struct sl_err *err)
{
    struct drawn_blocks *w = arg;
    (void)err;
    *bytes = 0;
    if (w->n_brought == w->n_pieces)
        return SL_OK;
    *from = w->pieces[w->n_brought];
    *bytes = w->bytes[w->n_brought++];
    memcpy(to, *from, *bytes);
    return SL_OK;
}

static const float *vector(struct drawn_blocks *w, size_t n, float middle, float spread)
{
    float *x = piece(w, n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = middle + draw_unit() * spread;
    return x;
}

/* A block's bytes may be any, but that no weight of i8 is -128; its scales are such that outputs are about as large as inputs. */
static void draw_block(uint8_t *at, enum sl_dtype dtype, uint32_t k, uint32_t rotation)
{
    const size_t bytes = sl_quant_block_bytes(dtype, k);
    for (size_t i = 0; i < bytes; i++)
        at[i] = (uint8_t)(below(255) + 1);
    for (uint32_t c = 0; c < SL_LANES; c++) {
        float scale = sl_round_up12((1.0f + draw_unit() * 0.5f) /
                                    (40.0f * sqrtf((float)k * (float)(rotation ? rotation : 1))));
        memcpy(at + c * sizeof scale, &scale, sizeof scale);
    }
}

/* `n_alike` of them, one behind the other. */
static struct sl_panel panel(struct drawn_blocks *w, struct panel_kind f, uint32_t n, uint32_t k,
                             uint32_t n_alike)
{
    const size_t bytes = sl_panel_bytes(f.dtype, n, k) * n_alike;
    uint8_t *data = piece(w, bytes);
    if (sl_dtype_is_integer(f.dtype))
        for (size_t at = 0; at < bytes; at += sl_quant_block_bytes(f.dtype, k))
            draw_block(data + at, f.dtype, k, f.rotation);
    else
        for (size_t at = 0; at < bytes; at += sl_dtype_bytes(f.dtype)) {
            float x = draw_unit() * 1.7f / sqrtf((float)k);
            uint16_t half = sl_f32_to_bf16(x);
            memcpy(data + at, f.dtype == SL_F32 ? (const void *)&x : (const void *)&half,
                   sl_dtype_bytes(f.dtype));
        }
    return (struct sl_panel){data, n, k, f.dtype, f.rotation, f.digits};
}

static void draw_attention(struct drawn_blocks *w, struct sl_attention_weights *a, const struct model *m)
{
    const uint32_t n = (m->n_q + 2 * m->n_kv) * m->d_head;
    a->norm = vector(w, D_MODEL, 1, 0.3f);
    a->qkv = panel(w, m->attention, n, D_MODEL, 1);
    a->o = panel(w, m->attention, D_MODEL, m->n_q * m->d_head, 1);
    if (m->bias)
        a->qkv_bias = vector(w, n, 0, 1);
    if (m->qk_norm) {
        a->q_norm = vector(w, m->d_head, 1, 0.3f);
        a->k_norm = vector(w, m->d_head, 1, 0.3f);
    }
}

static void draw_experts(struct drawn_blocks *w, struct sl_experts_weights *e, const struct model *m,
                         char kind)
{
    const struct panel_kind floats = {.dtype = SL_F32};
    const uint32_t wide = 2 * sl_round_lanes(m->d_expert), single = kind == DENSE ? m->d_dense : m->d_shared;
    e->norm = vector(w, D_MODEL, 1, 0.3f);
    e->is_moe = kind != DENSE;
    e->has_single = kind != MOE;
    if (e->is_moe) {
        e->router = panel(w, floats, EXPERTS, D_MODEL, 1);
        e->routed.gate_up = panel(w, m->routed, wide, D_MODEL, EXPERTS);
        e->routed.down = panel(w, m->routed, D_MODEL, m->d_expert, EXPERTS);
        e->routed.gate_up_stride = sl_panel_bytes(m->routed.dtype, wide, D_MODEL);
        e->routed.down_stride = sl_panel_bytes(m->routed.dtype, D_MODEL, m->d_expert);
    }
    if (e->has_single) {
        e->gate_up = panel(w, m->single, 2 * sl_round_lanes(single), D_MODEL, 1);
        e->down = panel(w, m->single, D_MODEL, single, 1);
    }
    if (kind == SHARED_GATED)
        e->shared_gate = vector(w, D_MODEL, 0, 0.3f);
}

static void draw_weights(struct drawn_blocks *w, const struct model *m)
{
    *w = (struct drawn_blocks){0};
    for (size_t i = 0; i < strlen(m->layers); i++) {
        draw_attention(w, &w->layers[i].attention, m);
        draw_experts(w, &w->layers[i].experts, m, m->layers[i]);
    }
    w->all.layers = w->layers;
    w->all.final_norm = vector(w, D_MODEL, 1, 0.3f);
    w->all.head = panel(w, m->head, VOCAB, D_MODEL, 1);
    w->all.source = (struct sl_device_source){.next = bring, .arg = w};
    for (uint32_t i = 0; i < w->n_pieces; i++)
        w->all.source.piece = w->bytes[i] > w->all.source.piece ? w->bytes[i] : w->all.source.piece;
}

static void free_weights(struct drawn_blocks *w)
{
    for (uint32_t i = 0; i < w->n_pieces; i++)
        free(w->pieces[i]);
}

/* ---- what a device makes of three sequences: prompts, a token each, and a last layer of which little is wanted ---- */

static const struct {
    uint32_t n[SLICES_MOST], kv_only[SLICES_MOST];
} chunks[] = {{{70, 9, 1}, {0}}, {{1, 1, 3}, {0}}, {{6, 20, 1}, {5, 20, 0}}};
enum { CHUNKS = sizeof chunks / sizeof *chunks };

struct device_made {
    float rows[CHUNKS][ROWS_MOST * D_MODEL], logits[HEAD_ROWS * VOCAB];
    uint32_t n_rows[CHUNKS];
    uint8_t *pages; /* [SLICES_MOST * PAGES] slots */
    size_t page_bytes;
};

static struct sl_device_config config_of(const struct model *m, const float *inv_freq)
{
    const bool moe = strspn(m->layers, "d") < strlen(m->layers);
    return (struct sl_device_config){
        .attention = {D_MODEL, m->n_q, m->n_kv, m->d_head, 1e-6f, 1.0f / sqrtf((float)m->d_head)},
        .experts = {D_MODEL, moe ? EXPERTS : 0, moe ? TOP_K : 0, moe ? m->d_expert : 0,
                    m->d_dense > m->d_shared ? m->d_dense : m->d_shared, true, 1e-6f},
        .rope_inv_freq = inv_freq,
        .rope_factor = 1,
        .n_layers = (uint32_t)strlen(m->layers),
        .vocab = VOCAB,
        .with_head = true,
        .kv_dtype = m->kv,
        .n_pages = SLICES_MOST * PAGES,
        .max_pages = PAGES,
        .max_tokens = ROWS_MOST,
        .max_slices = SLICES_MOST,
        .head_rows = HEAD_ROWS,
        .n_threads = 1};
}

enum { IN_DONE, COMPUTED, OUT_DONE };

/* The chunk's rows through all layers, from x to out, whose rows are `left`; logits of some of them. */
static void run_chunk(struct sl_device *d, const struct model *m, float *x, uint32_t c,
                      const struct sl_attention_slice *slices, struct device_made *out)
{
    const struct sl_device_ops *ops = d->ops;
    struct sl_device_chunk chunk = {
        .rows = ops->rows(d, c % 2, x), .n_slices = SLICES_MOST, .slices = slices};
    for (uint32_t i = 0; i < SLICES_MOST; i++) {
        chunk.n_rows += slices[i].n;
        out->n_rows[c] += slices[i].n - slices[i].kv_only;
    }
    ops->copy_in(d, chunk.rows, x, chunk.n_rows * D_MODEL * sizeof *x);
    ops->record(d, IN_DONE, SL_QUEUE_IN);
    ops->await(d, SL_QUEUE_COMPUTE, IN_DONE);
    ops->begin(d, &chunk);
    for (uint32_t i = 0; i < strlen(m->layers); i++) {
        ops->attention(d, i);
        ops->experts(d, i);
    }
    ops->finish(d);
    uint32_t n = out->n_rows[c] < HEAD_ROWS ? out->n_rows[c] : HEAD_ROWS;
    struct sl_device_at logits = ops->logits(d, chunk.rows, n);
    ops->record(d, COMPUTED, SL_QUEUE_COMPUTE);
    ops->await(d, SL_QUEUE_OUT, COMPUTED);
    ops->copy_out(d, out->rows[c], chunk.rows, out->n_rows[c] * D_MODEL * sizeof *x);
    ops->copy_out(d, out->logits, logits, n * VOCAB * sizeof *out->logits);
    ops->record(d, OUT_DONE, SL_QUEUE_OUT);
    ops->wait(d, OUT_DONE);
}

static void run_chunks(struct sl_device *d, const struct model *m, const float *x, struct device_made *out)
{
    static float rows[ROWS_MOST * D_MODEL];
    uint32_t pages[SLICES_MOST][PAGES], pos[SLICES_MOST] = {0};
    for (uint32_t slot = 0; slot < SLICES_MOST * PAGES; slot++) {
        pages[slot % SLICES_MOST][slot / SLICES_MOST] = SLICES_MOST * PAGES - 1 - slot;
        d->ops->clear(d, slot);
    }
    for (uint32_t c = 0; c < CHUNKS; c++) {
        struct sl_attention_slice slices[SLICES_MOST];
        for (uint32_t i = 0, row = 0; i < SLICES_MOST; row += slices[i++].n) {
            slices[i] =
                (struct sl_attention_slice){row, chunks[c].n[i], pos[i], pages[i], chunks[c].kv_only[i]};
            pos[i] += chunks[c].n[i];
        }
        memcpy(rows, x + c * ROWS_MOST * D_MODEL, sizeof rows);
        run_chunk(d, m, rows, c, slices, out);
    }
    for (uint32_t slot = 0; slot < SLICES_MOST * PAGES; slot++)
        d->ops->copy_out(d, out->pages + slot * out->page_bytes, d->ops->page(d, slot), out->page_bytes);
    d->ops->record(d, OUT_DONE, SL_QUEUE_OUT);
    d->ops->wait(d, OUT_DONE);
}

static struct device_made *try_on(const struct sl_device_ops *ops, const struct model *m,
                                  const struct sl_device_weights *weights, const float *x)
{
    struct device_made *out = calloc(1, sizeof *out);
    struct sl_device *device = NULL;
    struct sl_err err = {0};
    float inv_freq[256];
    for (uint32_t i = 0; i < m->d_head / 2; i++)
        inv_freq[i] = powf(10000.0f, -2.0f * (float)i / (float)m->d_head);
    struct sl_device_config config = config_of(m, inv_freq);
    out->page_bytes =
        config.n_layers * sl_kv_layer_bytes(&(struct sl_kv_layout){1, m->n_kv, m->d_head, m->kv});
    out->pages = take(SLICES_MOST * PAGES * out->page_bytes);
    if (ops->create(&device, &config, weights, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    else
        run_chunks(device, m, x, out);
    ops->destroy(device);
    return out;
}

static void free_made(struct device_made *out)
{
    free(out->pages);
    free(out);
}

/* What nobody could tell from another thing would be the same for all models: rows differ, and are numbers. */
static bool is_alive(const struct device_made *out)
{
    for (uint32_t c = 0; c < CHUNKS; c++)
        for (uint32_t i = 0; i < out->n_rows[c] * D_MODEL; i++)
            if (!isfinite(out->rows[c][i]) || fabsf(out->rows[c][i]) > 1e6f)
                return false;
    return memcmp(out->rows[0], out->rows[0] + D_MODEL, D_MODEL * sizeof(float)) != 0 &&
           out->logits[0] != out->logits[1];
}

static void compare(const struct model *m, uint64_t seed, const char *what)
{
    struct drawn_blocks w;
    float *x = take(CHUNKS * ROWS_MOST * D_MODEL * sizeof *x);
    draw_weights(&w, m);
    for (size_t i = 0; i < CHUNKS * ROWS_MOST * D_MODEL; i++)
        x[i] = draw_unit() * (i % 37 == 0 ? 8.0f : 1.0f);
    sl_gpu_twin_as(&(struct sl_gpu_twin){.seed = seed, .checked = true});
    struct device_made *want = try_on(&sl_device_cpu, m, &w.all, x),
                       *got = try_on(&sl_device_twin, m, &w.all, x);
    uint64_t rows = 0, logits = 0, pages = 0;
    for (uint32_t c = 0; c < CHUNKS; c++)
        for (uint32_t i = 0; i < want->n_rows[c] * D_MODEL; i++)
            rows += memcmp(&want->rows[c][i], &got->rows[c][i], sizeof(float)) != 0;
    for (uint32_t i = 0; i < HEAD_ROWS * VOCAB; i++)
        logits += memcmp(&want->logits[i], &got->logits[i], sizeof(float)) != 0;
    for (size_t i = 0; i < SLICES_MOST * PAGES * want->page_bytes; i++)
        pages += want->pages[i] != got->pages[i];
    if (rows + logits + pages > 0 || !is_alive(want))
        sl_test_fail(
            __FILE__, __LINE__,
            "%s: %u heads of %u, %u of KV in dtype %d, layers %s, seed %llu: %llu numbers of rows, %llu logits and %llu "
            "bytes of pages differ%s",
            what, m->n_q, m->d_head, m->n_kv, (int)m->kv, m->layers, (unsigned long long)seed,
            (unsigned long long)rows, (unsigned long long)logits, (unsigned long long)pages,
            is_alive(want) ? "" : "; the CPU's are no good");
    free_made(want);
    free_made(got);
    free_weights(&w);
    free(x);
}

/* ---- models ---- */

static struct model usual(void)
{
    return (struct model){.n_q = 4,
                          .n_kv = 2,
                          .d_head = 32,
                          .qk_norm = true,
                          .layers = "mm",
                          .kv = SL_I8,
                          .attention = {SL_I8, 32, 1},
                          .routed = {SL_I4, 32, 1},
                          .single = {SL_I8, 32, 1},
                          .head = {SL_I8, 0, 1},
                          .d_expert = 64,
                          .d_dense = 128,
                          .d_shared = 96};
}

SL_TEST(biases_of_q_k_and_v_are_added_as_by_the_cpu)
{
    static const enum sl_dtype kv[] = {SL_I8, SL_BF16, SL_F32};
    for (uint32_t i = 0; i < 4; i++) {
        struct model m = usual();
        m.bias = true;
        m.qk_norm = i % 2;
        m.kv = kv[i % 3];
        m.attention = i % 2 ? (struct panel_kind){SL_BF16, 0, 0} : (struct panel_kind){SL_I8, 0, 2};
        compare(&m, i, "biases");
    }
}

/* Its rows are those of the routed experts where both want the same, and made anew where it wants another rotation, more digits, or
 * floats. */
SL_TEST(a_shared_expert_has_the_cpus_bits_with_its_gate_and_without)
{
    static const struct {
        struct panel_kind routed, single;
    } formats[] = {{{SL_I4, 32, 1}, {SL_I4, 32, 1}}, {{SL_I4, 32, 1}, {SL_I8, 16, 1}},
                   {{SL_I3, 0, 1}, {SL_I8, 0, 2}},   {{SL_I4G16, 0, 2}, {SL_I8, 0, 1}},
                   {{SL_I8, 8, 2}, {SL_BF16, 0, 0}}, {{SL_BF16, 0, 0}, {SL_I2, 32, 2}},
                   {{SL_F32, 0, 0}, {SL_F32, 0, 0}}};
    for (uint32_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        struct model m = usual();
        m.layers = i % 2 ? "sg" : "gs";
        m.routed = formats[i].routed;
        m.single = formats[i].single;
        m.d_shared = i % 3 ? 160 : 32; /* wider than a token's routed pairs, and narrower */
        m.d_dense = 0;
        compare(&m, i, "a shared expert");
    }
}

SL_TEST(dense_layers_stand_anywhere)
{
    static const char *const layers[] = {"dm", "mdm", "md", "dd", "gds"};
    for (uint32_t i = 0; i < sizeof layers / sizeof *layers; i++) {
        struct model m = usual();
        m.layers = layers[i];
        m.single = i % 2 ? (struct panel_kind){SL_I4, 16, 2} : m.single;
        m.d_dense = i % 2 ? 80 : 352;
        compare(&m, i, "dense layers");
    }
}

SL_TEST(heads_of_any_size_in_groups_of_any_size_have_the_cpus_bits)
{
    static const struct {
        uint32_t n_q, n_kv, d_head;
        enum sl_dtype kv;
    } heads[] = {{8, 1, 64, SL_I8},   {6, 2, 64, SL_BF16},  {4, 4, 128, SL_I8}, {5, 1, 128, SL_F32},
                 {2, 1, 256, SL_I8},  {2, 2, 256, SL_BF16}, {1, 1, 512, SL_I8}, {34, 2, 16, SL_I8},
                 {3, 3, 80, SL_BF16}, {16, 1, 64, SL_F32}};
    for (uint32_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        struct model m = usual();
        m.n_q = heads[i].n_q;
        m.n_kv = heads[i].n_kv;
        m.d_head = heads[i].d_head;
        m.kv = heads[i].kv;
        m.bias = i % 3 == 0;
        m.qk_norm = i % 2;
        m.attention.rotation = i % 2 ? 16 : 0;
        m.layers = i % 4 ? "m" : "dm";
        compare(&m, i, "heads");
    }
}

SL_TEST(a_model_that_kernels_of_a_gpu_do_not_take_is_refused_with_its_numbers)
{
    struct sl_device_config usual_config = config_of(
                                &(struct model){.n_q = 4, .n_kv = 2, .d_head = 32, .layers = "m"}, NULL),
                            configs[5];
    static const char *const says[] = {"a row of 24832 numbers is wider", "a row of 24578 numbers is wider",
                                       "heads of 514 are not", "4097 experts of which a token takes 2",
                                       "chunks of 262145 tokens are more"};
    for (int i = 0; i < 5; i++)
        configs[i] = usual_config;
    configs[0].attention.n_q = 24832 / 32;
    configs[1].experts.d_single = 24578;
    configs[2].attention.d_head = 514;
    configs[3].experts.n_experts = 4097;
    configs[4].max_tokens = 262145;
    for (int i = 0; i < 5; i++) {
        struct sl_device_bytes bytes;
        struct sl_err err = {0};
        CHECK_INT(sl_device_twin.bytes(&bytes, &configs[i], &err), SL_E_CONFIG);
        CHECK_CONTAINS(err.text, says[i]);
    }
}

/* ---- drawn ones ---- */

static struct panel_kind draw_kind(uint32_t k)
{
    struct panel_kind f = {.dtype = (enum sl_dtype)below(SL_DTYPES)};
    if (!sl_dtype_is_integer(f.dtype))
        return f;
    f.digits = 1 + below(2);
    f.rotation = below(3) ? 2u << below(8) : 0;
    while (f.rotation > 0 && k % f.rotation != 0)
        f.rotation /= 2;
    f.rotation = f.rotation == 1 ? 0 : f.rotation;
    return f;
}

static struct model draw_model(char layers[LAYERS_MOST + 1])
{
    static const uint32_t widths[] = {64, 128, 256, 32, 80, 20, 192, 6};
    static const enum sl_dtype kv[] = {SL_I8, SL_I8, SL_BF16, SL_F32};
    struct model m = {
        .n_kv = 1 + below(3), .d_head = widths[below(8)], .bias = below(2), .qk_norm = below(2)};
    const uint32_t n_layers = 1 + below(3);
    m.n_q = m.n_kv * (1 + below(m.d_head > 100 ? 3 : 8));
    m.kv = kv[below(4)];
    m.layers = layers;
    for (uint32_t i = 0; i < n_layers; i++)
        layers[i] = "dmsg"[below(4)];
    layers[n_layers] = '\0';
    m.d_expert = 1 + below(130), m.d_dense = 1 + below(300), m.d_shared = 1 + below(200);
    const uint32_t mixed = m.n_q * m.d_head;
    m.attention = draw_kind((mixed | D_MODEL) & ~((mixed | D_MODEL) - 1)); /* both rows are rotated alike */
    m.routed = draw_kind(1u << (below(2) * 5));
    m.single = draw_kind(1u << (below(2) * 5));
    m.head = draw_kind(D_MODEL);
    const uint32_t routed = m.routed.rotation, single = m.single.rotation;
    m.d_expert = routed ? (m.d_expert + routed - 1) / routed * routed : m.d_expert;
    m.d_dense = single ? (m.d_dense + single - 1) / single * single : m.d_dense;
    m.d_shared = single ? (m.d_shared + single - 1) / single * single : m.d_shared;
    return m;
}

SL_TEST(models_at_random_have_the_cpus_bits)
{
    const char *more = getenv("SLUICE_SEEDS");
    const uint64_t n = more ? strtoull(more, NULL, 10) / 100 : 2;
    for (uint64_t i = 0; i < n; i++) {
        char layers[LAYERS_MOST + 1];
        struct model m = draw_model(layers);
        compare(&m, i, "a model at random");
    }
}
