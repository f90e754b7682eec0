/* Packing: the same bytes twice, every place of every panel, formats by exactness, and each bad
 * checkpoint refused in one sentence with nothing left behind. The expected bytes are computed here
 * from the values' definition (files.h), never from the code under test. */
#include "model/pack/pack.h"
#include "model/pack/pack_cache.h"
#include "model/pack/weights.h"
#include "model/source/safetensors.h"
#include "tests/model/files.h"
#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

static const struct sl_pack_options plain = {0}, force = {.force = true};

static struct checkpoint *checkpoint_new(void)
{
    return calloc(1, sizeof(struct checkpoint));
}

static sl_status pack_it(struct checkpoint *c, const char *name, struct sl_err *err)
{
    const char *src = path_in(sl_test_dir(), "src");
    const char *dst = path_in(sl_test_dir(), name);
    checkpoint_write(c, src);
    free(c);
    return sl_pack_write(src, dst, &plain, err);
}

static int entries(const char *dir)
{
    int n = 0;
    DIR *d = opendir(dir);
    while (d && readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static float element(const struct sl_index *index, const char *name, size_t i)
{
    const struct sl_tensor *t = sl_index_find(index, name);
    if (!t)
        return -99;
    const uint8_t *data = sl_index_data(index, t);
    float f;
    uint16_t h;
    if (t->type == SL_T_BF16) {
        memcpy(&h, data + 2 * i, 2);
        return sl_bf16_to_f32(h);
    }
    memcpy(&f, data + 4 * i, 4);
    return f;
}

/* Each element of a panel of n outputs against value_at of the source's row; zeros beyond. */
static void check_panel(const struct sl_index *index, const char *name, size_t at, const char *source,
                        uint32_t first, uint32_t n, uint32_t k)
{
    for (uint32_t c = 0; c < n; c++)
        for (uint32_t i = 0; i < k; i++) {
            size_t where = at + sl_panel_at(k, first + c, i);
            if (element(index, name, where) != value_at(source, c, i)) {
                sl_test_fail(__FILE__, __LINE__, "%s[%u][%u] of %s is wrong", source, c, i, name);
                return;
            }
        }
}

static void check_layer_one(const struct sl_index *index)
{
    check_panel(index, "qkv", 0, "model.layers.1.self_attn.q_proj.weight", 0, NQ * HEAD, H);
    check_panel(index, "qkv", 0, "model.layers.1.self_attn.k_proj.weight", NQ * HEAD, NKV * HEAD, H);
    check_panel(index, "qkv", 0, "model.layers.1.self_attn.v_proj.weight", (NQ + NKV) * HEAD, NKV * HEAD, H);
    check_panel(index, "o", 0, "model.layers.1.self_attn.o_proj.weight", 0, H, NQ * HEAD);
    check_panel(index, "router", 0, "model.layers.1.mlp.gate.weight", 0, E, H);
    CHECK(element(index, "router", sl_panel_at(H, E, 0)) == 0); /* padding */
    for (uint32_t e = 0; e < E; e++) {
        char name[96];
        size_t gate_up = e * 2 * 16 * (size_t)H, down = e * 32 * (size_t)I; /* elements of one expert */
        snprintf(name, sizeof name, "model.layers.1.mlp.experts.%u.gate_proj.weight", e);
        check_panel(index, "experts.gate_up", gate_up, name, 0, I, H);
        snprintf(name, sizeof name, "model.layers.1.mlp.experts.%u.up_proj.weight", e);
        check_panel(index, "experts.gate_up", gate_up, name, 16, I, H);
        snprintf(name, sizeof name, "model.layers.1.mlp.experts.%u.down_proj.weight", e);
        check_panel(index, "experts.down", down, name, 0, H, I);
        CHECK(element(index, "experts.gate_up", gate_up + sl_panel_at(H, I, 3)) == 0);
        CHECK(element(index, "experts.down", down + sl_panel_at(I, H, 3)) == 0);
    }
    for (uint32_t i = 0; i < H; i++)
        CHECK(element(index, "ffn_norm", i) ==
              value_at("model.layers.1.post_attention_layernorm.weight", i, 0));
}

static void check_layer_zero(const struct sl_index *index)
{
    /* 18 wide: the second pair of blocks holds the last two gate rows, then the last two up rows.
     */
    for (uint32_t r = 0; r < DENSE; r++)
        for (uint32_t i = 0; i < H; i++) {
            uint32_t output = r / 16 * 32 + r % 16;
            CHECK(element(index, "dense.gate_up", sl_panel_at(H, output, i)) ==
                  value_at("model.layers.0.mlp.gate_proj.weight", r, i));
            CHECK(element(index, "dense.gate_up", sl_panel_at(H, output + 16, i)) ==
                  value_at("model.layers.0.mlp.up_proj.weight", r, i));
        }
    check_panel(index, "dense.down", 0, "model.layers.0.mlp.down_proj.weight", 0, H, DENSE);
    CHECK(!sl_index_find(index, "router"));
}

static void check_alignment(const struct sl_index *index)
{
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < index->n_tensors; i++) {
        const struct sl_tensor *t = &index->tensors[i];
        least = t->begin < least ? t->begin : least;
        if (strncmp(t->name, "__pad.", 6) != 0)
            CHECK_INT(t->begin % 64, 0);
    }
    CHECK_INT(least % 4096, 0);
}

SL_TEST(every_weight_lies_where_the_layout_says)
{
    static const enum dtype stores[] = {AS_BF16, AS_F16, AS_F32};
    static const char *const names[] = {"bf16", "f16", "f32"};
    for (int i = 0; i < 3; i++) {
        struct sl_err err = {0};
        struct sl_index index;
        struct checkpoint *c = checkpoint_new();
        c->dtype = stores[i];
        CHECK_INT(pack_it(c, names[i], &err), SL_OK);
        CHECK_STR(err.text, "");
        const char *dst = path_in(sl_test_dir(), names[i]);
        REQUIRE(sl_index_open_file(&index, path_in(dst, "layer-0001.safetensors"), &err) == SL_OK);
        check_layer_one(&index);
        check_alignment(&index);
        CHECK_INT(sl_index_find(&index, "qkv")->type, SL_T_BF16); /* all values are bf16 */
        sl_index_close(&index);
        REQUIRE(sl_index_open_file(&index, path_in(dst, "layer-0000.safetensors"), &err) == SL_OK);
        check_layer_zero(&index);
        check_alignment(&index);
        sl_index_close(&index);
        REQUIRE(sl_index_open_file(&index, path_in(dst, "head.safetensors"), &err) == SL_OK);
        check_panel(&index, "head", 0, "lm_head.weight", 0, VOCAB, H);
        sl_index_close(&index);
        REQUIRE(sl_index_open_file(&index, path_in(dst, "embed.safetensors"), &err) == SL_OK);
        CHECK(element(&index, "embed", 5 * H + 7) == value_at("model.embed_tokens.weight", 5, 7));
        sl_index_close(&index);
    }
}

SL_TEST(a_value_that_is_no_bf16_makes_its_class_f32)
{
    struct sl_err err = {0};
    struct sl_index index;
    struct checkpoint *c = checkpoint_new();
    float odd = 1.0f + 0x1p-20f;
    c->dtype = AS_F32;
    c->poison = "model.layers.1.self_attn.v_proj.weight";
    memcpy(&c->poison_bits, &odd, 4);
    REQUIRE(pack_it(c, "dst", &err) == SL_OK);
    const char *dst = path_in(sl_test_dir(), "dst");
    REQUIRE(sl_index_open_file(&index, path_in(dst, "layer-0001.safetensors"), &err) == SL_OK);
    CHECK_INT(sl_index_find(&index, "qkv")->type, SL_T_F32);
    CHECK_INT(sl_index_find(&index, "o")->type, SL_T_BF16);
    CHECK(element(&index, "qkv", sl_panel_at(H, (NQ + 2 * NKV) * HEAD - 1, H - 1)) == odd);
    sl_index_close(&index);
}

static void check_same(const char *a, const char *b, const char *name)
{
    size_t m, n;
    char *x = read_text(path_in(a, name), &m), *y = read_text(path_in(b, name), &n);
    CHECK(m == n && memcmp(x, y, m) == 0);
    free(x);
    free(y);
}

SL_TEST(the_same_input_gives_the_same_bytes)
{
    struct sl_err err;
    REQUIRE(pack_it(checkpoint_new(), "a", &err) == SL_OK);
    REQUIRE(pack_it(checkpoint_new(), "b", &err) == SL_OK);
    const char *a = path_in(sl_test_dir(), "a");
    const char *b = path_in(sl_test_dir(), "b");
    static const char *const names[] = {
        "pack.json",         "layer-0000.safetensors", "layer-0001.safetensors",
        "embed.safetensors", "head.safetensors",       "config.json",
        "blocks.xxh3"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check_same(a, b, names[i]);
    CHECK_INT(entries(a), 7);
}

SL_TEST(a_tied_head_is_written_out)
{
    struct sl_err err = {0};
    struct sl_index index;
    struct checkpoint *c = checkpoint_new();
    c->tied = true;
    REQUIRE(pack_it(c, "dst", &err) == SL_OK);
    const char *dst = path_in(sl_test_dir(), "dst");
    REQUIRE(sl_index_open_file(&index, path_in(dst, "head.safetensors"), &err) == SL_OK);
    check_panel(&index, "head", 0, "model.embed_tokens.weight", 0, VOCAB, H);
    sl_index_close(&index);
}

#define Q1 "model.layers.1.self_attn.q_proj.weight"
#define UP "model.layers.1.mlp.experts.2.up_proj.weight"
#define NAN32 0x7FC00000u
#define INF32 0xFF800000u

static const struct {
    struct {
        const char *skip, *rename, *retype, *reshape, *extra, *poison;
        uint32_t bits;
        enum dtype dtype;
        bool tied_differs;
    } twist;
    const char *names, *says;
} bad[] = {
    {{.skip = Q1}, Q1, "missing"},
    {{.skip = UP}, UP, "[10, 24]"},
    {{.skip = "model.norm.weight"}, "model.norm.weight", "missing"},
    {{.skip = "lm_head.weight"}, "lm_head.weight", "missing"},
    {{.rename = Q1}, Q1, "other names"},
    {{.retype = Q1}, Q1, "U16"},
    {{.retype = Q1, .dtype = AS_F32}, Q1, "I32"},
    {{.reshape = UP}, UP, "[24, 10]"},
    {{.poison = UP, .bits = NAN32}, UP, "NaN"},
    {{.poison = UP, .bits = INF32}, UP, "infinity"},
    {{.poison = Q1, .bits = NAN32, .dtype = AS_F32}, Q1, "NaN"},
    {{.poison = Q1, .bits = 0x7FFF0000u, .dtype = AS_F16}, Q1, "NaN"},
    {{.poison = "model.norm.weight", .bits = NAN32}, "model.norm.weight", "NaN"},
    {{.poison = "model.embed_tokens.weight", .bits = INF32}, "model.embed_tokens.weight", "NaN"},
    {{.extra = "model.layers.1.self_attn.q_proj.bias"}, "q_proj.bias", "unknown"},
    {{.extra = "model.layers.1.mlp.experts.3.up_proj.weight"}, "experts.3", "unknown"},
    {{.extra = "model.layers.01x.y"}, "01x", "unknown"},
    {{.extra = "model.something.weight"}, "model.something", "unknown"},
    {{.extra = "lm_head.bias"}, "lm_head.bias", "unknown"},
    {{.tied_differs = true}, "lm_head.weight", "tie_word_embeddings"},
};

SL_TEST(a_bad_checkpoint_is_named_and_leaves_nothing)
{
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sl_err err = {0};
        struct checkpoint *c = checkpoint_new();
        c->skip = bad[i].twist.skip;
        c->rename = bad[i].twist.rename;
        c->retype = bad[i].twist.retype;
        c->reshape = bad[i].twist.reshape;
        c->extra = bad[i].twist.extra;
        c->poison = bad[i].twist.poison;
        c->poison_bits = bad[i].twist.bits;
        c->dtype = bad[i].twist.dtype;
        c->tied = c->tied_differs = bad[i].twist.tied_differs;
        CHECK_INT(pack_it(c, "dst", &err), SL_E_DATA);
        CHECK_CONTAINS(err.text, bad[i].names);
        CHECK_CONTAINS(err.text, bad[i].says);
        CHECK_INT(entries(sl_test_dir()), 1); /* src */
    }
}

SL_TEST(tensors_that_do_not_matter_are_ignored)
{
    static const char *const extras[] = {"model.layers.2.self_attn.q_proj.weight", "score.weight",
                                         "model.layers.0.self_attn.rotary_emb.inv_freq", "mtp.fc.weight"};
    for (size_t i = 0; i < sizeof extras / sizeof *extras; i++) {
        struct sl_err err = {0};
        char name[8];
        struct checkpoint *c = checkpoint_new();
        c->extra = extras[i];
        snprintf(name, sizeof name, "dst%zu", i);
        CHECK_INT(pack_it(c, name, &err), SL_OK);
        CHECK_STR(err.text, "");
    }
}

SL_TEST(places_that_exist_or_do_not)
{
    struct sl_err err;
    REQUIRE(pack_it(checkpoint_new(), "dst", &err) == SL_OK);
    const char *src = path_in(sl_test_dir(), "src");
    const char *dst = path_in(sl_test_dir(), "dst");
    CHECK_INT(sl_pack_write(src, dst, &plain, &err), SL_E_USAGE);
    CHECK_CONTAINS(err.text, "--force");
    flip_byte(path_in(dst, "layer-0000.safetensors"), 5000);
    CHECK_INT(sl_pack_write(src, dst, &force, &err), SL_OK);
    struct sl_pack *pack;
    REQUIRE(sl_pack_open(&pack, dst, &err) == SL_OK);
    CHECK_INT(sl_pack_verify(pack, NULL, &err), SL_OK);
    sl_pack_close(pack);
    CHECK_INT(entries(sl_test_dir()), 2);
    CHECK_INT(sl_pack_write(src, src, &force, &err), SL_E_USAGE); /* not a pack: never replaced */
    CHECK(exists(path_in(src, "config.json")));
    CHECK_INT(sl_pack_write(dst, path_in(sl_test_dir(), "d2"), &plain, &err), SL_E_USAGE);
    CHECK_CONTAINS(err.text, "already a pack");
    CHECK_INT(sl_pack_write(src, "", &plain, &err), SL_E_USAGE);
    CHECK_INT(sl_pack_write("/nowhere", path_in(sl_test_dir(), "d3"), &plain, &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "/nowhere");
    CHECK_INT(sl_pack_write(src, "/nowhere/d", &plain, &err), SL_E_IO);
    CHECK_INT(sl_pack_write(path_in(src, "config.json"), path_in(sl_test_dir(), "d3"), &plain, &err),
              SL_E_DATA);
    CHECK_CONTAINS(err.text, "not a directory");
}

/* A file size limit stands in for a full disk: write(2) fails in the middle of a file. */
SL_TEST(a_full_disk_is_named_with_the_bytes_needed)
{
    struct checkpoint *c = checkpoint_new();
    const char *src = path_in(sl_test_dir(), "src");
    const char *dst = path_in(sl_test_dir(), "dst");
    checkpoint_write(c, src);
    free(c);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct sl_err err = {0};
        struct rlimit limit = {6000, 6000};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        sl_status status = sl_pack_write(src, dst, &plain, &err);
        _exit(status == SL_E_IO && strstr(err.text, "no room") && strstr(err.text, "needs") &&
                      strstr(err.text, "dst.tmp-")
                  ? 0
                  : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_INT(status, 0);
    CHECK_INT(entries(sl_test_dir()), 1);
}

/* ---- opening ---- */

SL_TEST(a_pack_whose_manifest_has_not_come_is_no_checkpoint)
{
    struct sl_err err;
    struct sl_pack *pack;
    REQUIRE(pack_it(checkpoint_new(), "dst", &err) == SL_OK);
    const char *dst = path_in(sl_test_dir(), "dst");
    REQUIRE(remove(path_in(dst, "pack.json")) == 0);
    CHECK(!sl_pack_is_pack(dst) && sl_pack_is_half(dst));
    CHECK_INT(sl_pack_open_any(&pack, dst, &err), SL_E_DATA);
    CHECK_CONTAINS(err.text,
                   "has files of a pack and no pack.json, which is written last; copy it again, whole");
}

SL_TEST(an_opened_pack_says_what_it_is)
{
    struct sl_err err;
    struct sl_pack *pack;
    REQUIRE(pack_it(checkpoint_new(), "dst", &err) == SL_OK);
    const char *dst = path_in(sl_test_dir(), "dst");
    CHECK(sl_pack_is_pack(dst));
    CHECK(!sl_pack_is_pack(path_in(sl_test_dir(), "src")));
    CHECK(!sl_pack_is_half(dst) && !sl_pack_is_half(path_in(sl_test_dir(), "src")));
    REQUIRE(sl_pack_open(&pack, dst, &err) == SL_OK);
    CHECK_STR(sl_pack_path(pack), dst);
    CHECK_INT(strlen(sl_pack_digest(pack)), 64);
    CHECK_INT(sl_pack_shape(pack)->n_layers, LAYERS);
    struct stat st;
    stat(path_in(dst, "layer-0001.safetensors"), &st);
    CHECK_INT(sl_pack_layer_bytes(pack, 1), st.st_size);
    stat(path_in(dst, "embed.safetensors"), &st);
    CHECK_INT(sl_pack_embed_bytes(pack), st.st_size);
    stat(path_in(dst, "head.safetensors"), &st);
    CHECK_INT(sl_pack_head_bytes(pack), st.st_size);
    CHECK_INT(sl_pack_layer_bytes(pack, 2), 0);
    sl_pack_close(pack);
}

SL_TEST(a_changed_byte_is_found_in_every_file)
{
    static const char *const names[] = {"layer-0000.safetensors", "layer-0001.safetensors",
                                        "embed.safetensors", "head.safetensors"};
    struct sl_err err;
    struct sl_pack *pack;
    REQUIRE(pack_it(checkpoint_new(), "dst", &err) == SL_OK);
    const char *dst = path_in(sl_test_dir(), "dst");
    REQUIRE(sl_pack_open(&pack, dst, &err) == SL_OK);
    CHECK_INT(sl_pack_verify(pack, NULL, &err), SL_OK);
    for (int i = 0; i < 4; i++) {
        flip_byte(path_in(dst, names[i]), 4100);
        CHECK_INT(sl_pack_verify(pack, NULL, &err), SL_E_DATA);
        CHECK_CONTAINS(err.text, names[i]);
        flip_byte(path_in(dst, names[i]), 4100);
    }
    sl_pack_close(pack);
    flip_byte(path_in(dst, "config.json"), 40); /* small files: when opening */
    CHECK_INT(sl_pack_open(&pack, dst, &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "config.json");
    flip_byte(path_in(dst, "config.json"), 40);
    truncate(path_in(dst, "head.safetensors"), 4096) == 0 ? (void)0 : abort();
    CHECK_INT(sl_pack_open(&pack, dst, &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "head.safetensors");
    unlink(path_in(dst, "head.safetensors"));
    CHECK_INT(sl_pack_open(&pack, dst, &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "missing");
}

SL_TEST(no_byte_of_the_manifest_can_change_unnoticed)
{
    struct sl_err err;
    struct sl_pack *pack;
    size_t bytes;
    REQUIRE(pack_it(checkpoint_new(), "dst", &err) == SL_OK);
    const char *dst = path_in(sl_test_dir(), "dst");
    const char *path = path_in(dst, "pack.json");
    char *text = read_text(path, &bytes);
    for (size_t i = 0; i < bytes; i++) {
        flip_byte(path, (long)i);
        if (sl_pack_open(&pack, dst, &err) != SL_E_DATA) {
            sl_test_fail(__FILE__, __LINE__, "byte %zu ('%c') of pack.json changed unnoticed", i, text[i]);
            break;
        }
        flip_byte(path, (long)i);
    }
    text[bytes] = ' ';
    write_bytes(path, text, bytes + 1);
    CHECK_INT(sl_pack_open(&pack, dst, &err), SL_E_DATA);
    write_bytes(path, text, bytes);
    CHECK_INT(sl_pack_open(&pack, dst, &err), SL_OK);
    sl_pack_close(pack);
    free(text);
}

SL_TEST(a_pack_that_is_not_there_is_named)
{
    struct sl_err err;
    struct sl_pack *pack;
    CHECK_INT(sl_pack_open(&pack, "/nowhere", &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "/nowhere/pack.json");
    CHECK(!pack);
    sl_pack_close(NULL);
}
