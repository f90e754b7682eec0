/* A stage that measures itself (pipeline/stage/calibrate.h): what it finds is sane, it is afterwards as it was before, and what
 * was kept is read. How long a chunk takes is the machine's business; that the model fits what was measured is ours. */
#include "pipeline/stage/calibrate.h"
#include "tests/model/random_pack.h"
#include <dirent.h>
#include <math.h>

static const char config_text[] =
    "{\"model_type\":\"qwen3_moe\",\"architectures\":[\"Qwen3MoeForCausalLM\"],\"hidden_size\":96,"
    "\"num_hidden_layers\":4,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":32,"
    "\"vocab_size\":70,\"num_experts\":9,\"num_experts_per_tok\":3,\"moe_intermediate_size\":64,"
    "\"intermediate_size\":160,\"max_position_embeddings\":1024,\"mlp_only_layers\":[2],\"norm_topk_prob\":true}";

static struct sl_share share_of(uint32_t begin, uint32_t end)
{
    return (struct sl_share){.begin = begin,
                             .end = end,
                             .with_embed = begin == 0,
                             .with_head = end == 4,
                             .n_threads = 1,
                             .kv_dtype = SL_BF16,
                             .n_pages = 16,
                             .max_tokens = 320,
                             .max_sequences = 2,
                             .context_tokens = 1024};
}

static struct sl_stage *make_stage(const struct sl_pack *pack, const struct sl_share *share)
{
    struct sl_err err = {0};
    struct sl_stage *stage = NULL;
    if (sl_stage_create(&stage, pack, share, NULL, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return stage;
}

static const struct sl_stage_trial ample = {.budget_us = 60000000};

SL_TEST(a_stage_finds_a_model_of_what_it_measured)
{
    struct sl_pack *pack = random_pack(config_text, &(struct sl_formats){0}, SL_ROTATE_AUTO);
    for (uint32_t k = 0; k < 2; k++) {
        struct sl_share share = share_of(2 * k, 2 * k + 2);
        struct sl_stage *stage = make_stage(pack, &share);
        struct sl_stage_calibration c;
        struct sl_err err = {0};
        CHECK_INT(sl_stage_calibrate(&c, stage, pack, &ample, &err), SL_OK);
        CHECK(!c.kept);
        /* 1, 16, 64, 256 and 320 rows behind 0, 256 and 512 tokens; with the head, three where no prompt ends */
        CHECK_INT(c.measured.n_points, k ? 18 : 15);
        CHECK(c.measured.cost.hit > 0.33 && c.measured.cost.hit < 0.34);
        for (int i = 0; i < SL_COST_TERMS; i++) {
            CHECK(isfinite(c.prior.us[i]) && (c.prior.us[i] > 0 || (i == SL_COST_E && !k)));
            CHECK(isfinite(c.measured.cost.us[i]) && c.measured.cost.us[i] >= 0);
        }
        for (uint32_t i = 0; i < c.measured.n_points; i++)
            CHECK(c.measured.points[i].us > 0);
        struct sl_cost_chunk small = {0}, large = {0};
        sl_cost_add(&small, 0, 1);
        sl_cost_add(&large, 512, 320);
        CHECK(sl_cost_of(&c.measured.cost, &small) < sl_cost_of(&c.measured.cost, &large));
        sl_stage_destroy(stage);
    }
    sl_pack_close(pack);
}

SL_TEST(a_stage_is_afterwards_what_it_was)
{
    struct sl_pack *pack = random_pack(config_text, &(struct sl_formats){0}, SL_ROTATE_AUTO);
    struct sl_share share = share_of(0, 4);
    struct sl_stage *stage = make_stage(pack, &share);
    struct sl_sequences *t = sl_stage_sequences(stage);
    struct sl_stage_calibration c;
    struct sl_err err = {0};
    uint32_t next = t->next;
    CHECK_INT(sl_stage_calibrate(&c, stage, pack, &ample, &err), SL_OK);
    CHECK_INT(t->n_used, 0);
    CHECK_INT(t->n_live, 0);
    CHECK_INT(t->next, next);
    struct sl_sequence *all = sl_sequences_open(t, 7);
    REQUIRE(all != NULL);
    CHECK_INT(sl_stage_reserve(stage, all, 1024), SL_OK);
    sl_stage_destroy(stage);
    sl_pack_close(pack);
}

SL_TEST(a_stage_whose_pages_are_taken_is_not_measured_and_keeps_what_it_has)
{
    struct sl_pack *pack = random_pack(config_text, &(struct sl_formats){0}, SL_ROTATE_AUTO);
    struct sl_share share = share_of(0, 4);
    struct sl_stage *stage = make_stage(pack, &share);
    struct sl_sequences *t = sl_stage_sequences(stage);
    struct sl_stage_calibration c;
    struct sl_err err = {0};
    REQUIRE(sl_stage_reserve(stage, sl_sequences_open(t, 7), 640) == SL_OK);
    CHECK_INT(sl_stage_calibrate(&c, stage, pack, &ample, &err), SL_E_EXHAUSTED);
    CHECK_CONTAINS(err.text, "not free");
    CHECK_INT(t->n_used, 10);
    CHECK_INT(t->n_live, 1);
    sl_stage_destroy(stage);
    sl_pack_close(pack);
}

SL_TEST(without_time_the_cheapest_three_are_measured)
{
    struct sl_pack *pack = random_pack(config_text, &(struct sl_formats){0}, SL_ROTATE_AUTO);
    struct sl_share share = share_of(0, 4);
    struct sl_stage *stage = make_stage(pack, &share);
    struct sl_stage_calibration c;
    struct sl_err err = {0};
    CHECK_INT(sl_stage_calibrate(&c, stage, pack, &(struct sl_stage_trial){.budget_us = 0}, &err), SL_OK);
    CHECK_INT(c.measured.n_points, 3);
    for (uint32_t i = 0; i < c.measured.n_points; i++)
        CHECK(c.measured.points[i].rows <= 16);
    sl_stage_destroy(stage);
    sl_pack_close(pack);
}

/* The one file of a directory, or NULL. */
static const char *only_file(const char *dir)
{
    const char *path = NULL;
    uint32_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') {
            n++;
            path = path_in(dir, e->d_name);
        }
    if (d)
        closedir(d);
    return n == 1 ? path : NULL;
}

SL_TEST(what_was_measured_is_kept_and_read_again_unless_it_is_damaged_or_another_s)
{
    struct sl_pack *pack = random_pack(config_text, &(struct sl_formats){0}, SL_ROTATE_AUTO);
    struct sl_share share = share_of(0, 4), other = share_of(1, 3);
    struct sl_stage *stage = make_stage(pack, &share);
    struct sl_stage_calibration first, c;
    struct sl_err err = {0};
    const char *dir = path_in(sl_test_dir(), "kept");
    mkdir(dir, 0777);
    struct sl_stage_trial trial = {.budget_us = 0, .dir = dir};
    CHECK_INT(sl_stage_calibrate(&first, stage, pack, &trial, &err), SL_OK);
    CHECK(!first.kept);
    CHECK_INT(sl_stage_calibrate(&c, stage, pack, &trial, &err), SL_OK);
    CHECK(c.kept);
    CHECK_INT(c.measured.n_points, first.measured.n_points);
    for (int i = 0; i < SL_COST_TERMS; i++)
        CHECK(fabs(c.measured.cost.us[i] - first.measured.cost.us[i]) <= 1e-8 * first.measured.cost.us[i]);
    trial.fresh = true;
    CHECK_INT(sl_stage_calibrate(&c, stage, pack, &trial, &err), SL_OK);
    CHECK(!c.kept);
    trial.fresh = false;
    const char *path = only_file(dir);
    REQUIRE(path);
    write_text(path, "sluice cost 1\nof another machine\n");
    CHECK_INT(sl_stage_calibrate(&c, stage, pack, &trial, &err), SL_OK);
    CHECK(!c.kept);
    CHECK_INT(sl_stage_calibrate(&c, stage, pack, &trial, &err), SL_OK);
    CHECK(c.kept);         /* it was replaced */
    share.max_tokens = 64; /* what is kept says more than this one wants to know */
    struct sl_stage *smaller = make_stage(pack, &share);
    CHECK_INT(sl_stage_calibrate(&c, smaller, pack, &trial, &err), SL_OK);
    CHECK(c.kept);
    sl_stage_destroy(smaller);
    share.max_tokens = 512; /* and less than that one does */
    struct sl_stage *larger = make_stage(pack, &share);
    CHECK_INT(sl_stage_calibrate(&c, larger, pack, &trial, &err), SL_OK);
    CHECK(!c.kept);
    sl_stage_destroy(larger);
    CHECK(only_file(dir));
    struct sl_stage *another = make_stage(pack, &other);
    CHECK_INT(sl_stage_calibrate(&c, another, pack, &trial, &err), SL_OK);
    CHECK(!c.kept);
    sl_stage_destroy(another);
    sl_stage_destroy(stage);
    sl_pack_close(pack);
}

SL_TEST(a_gpu_neither_takes_the_costs_of_the_cpu_nor_has_its_peaks)
{
    static const enum sl_device_kind kinds[] = {SL_DEVICE_CPU, SL_DEVICE_TWIN};
    struct sl_pack *pack = random_pack(config_text, &(struct sl_formats){0}, SL_ROTATE_AUTO);
    struct sl_err err = {0};
    const char *dir = path_in(sl_test_dir(), "kinds");
    mkdir(dir, 0777);
    struct sl_stage_trial trial = {.budget_us = 0, .dir = dir};
    for (int round = 0; round < 2; round++)
        for (int k = 0; k < 2; k++) {
            struct sl_share share = share_of(3, 4);
            struct sl_stage_calibration c;
            share.device = kinds[k];
            share.n_threads =
                kinds[k] == SL_DEVICE_CPU ? 1 : 1 + (uint32_t)round; /* which a GPU has no use for */
            struct sl_stage *stage = make_stage(pack, &share);
            CHECK_INT(sl_stage_calibrate(&c, stage, pack, &trial, &err), SL_OK);
            CHECK_INT(c.kept, round == 1);
            CHECK_INT(c.no_peaks, kinds[k] == SL_DEVICE_TWIN);
            CHECK_INT(c.measured.n_points, 3);
            CHECK(sl_cost_is_sane(&c.measured.cost));
            sl_stage_destroy(stage);
        }
    sl_pack_close(pack);
}
