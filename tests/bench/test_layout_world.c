/* bench/layout_*: a prompt's bits do not depend on the layout. Experts that are sharded over any number of nodes give, with the exact
 * combine, the logits and all K and V of one process and of a pipeline; over frames that are really sent. */
#include "base/rng.h"
#include "bench/layout_world.h"
#include "tests/model/random_pack.h"
#include <math.h>
#include <stdlib.h>

enum { PROMPT = 400, WORDS = 70 };

static uint32_t ids[PROMPT];

static const char routed_text[] =
    "{\"model_type\":\"qwen3_moe\",\"architectures\":[\"Qwen3MoeForCausalLM\"],\"hidden_size\":96,"
    "\"num_hidden_layers\":4,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":32,"
    "\"vocab_size\":70,\"num_experts\":9,\"num_experts_per_tok\":3,\"moe_intermediate_size\":64,"
    "\"intermediate_size\":160,\"max_position_embeddings\":512,\"mlp_only_layers\":[2],\"norm_topk_prob\":true}";
static struct sl_pack *make_pack(const char *text, enum sl_dtype dense, enum sl_dtype experts)
{
    for (uint32_t i = 0; i < PROMPT; i++)
        ids[i] = (uint32_t)(sl_rng_at(5, i) % WORDS);
    return random_pack_of(text, dense, experts, SL_ROTATE_AUTO);
}

static struct sl_layout_config config_of(const struct sl_pack *pack, enum sl_layout_kind kind,
                                         uint32_t n_nodes)
{
    return (struct sl_layout_config){.pack = pack,
                                     .kv = "auto",
                                     .transport = "local",
                                     .kind = kind,
                                     .n_nodes = n_nodes,
                                     .ids = ids,
                                     .n_ids = PROMPT,
                                     .rows = 64};
}

struct layout_answer {
    uint64_t digest;
    float logits[WORDS];
    double latency_ns, carried_ns;  /* on the wall; of it, frames sealed and checked */
    struct sl_layout_played played; /* on a network as the config has it */
};

/* The second of two rounds: nothing of the first one is left. */
static struct layout_answer run(const struct sl_layout_config *config)
{
    struct sl_err err = {0};
    struct sl_layout_world *world = NULL;
    struct sl_layout_result result;
    struct sl_tape tapes[SL_LAYOUT_NODES_MAX] = {0};
    struct layout_answer answer = {0};
    const struct sl_layout_net net = {config->delay_us * 1e3, config->gbit > 0 ? 8 / config->gbit : 0};
    if (sl_layout_open(&world, config, &err) != SL_OK ||
        sl_layout_round(world, tapes, &result, &err) != SL_OK ||
        sl_layout_round(world, tapes, &result, &err) != SL_OK) {
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    } else {
        answer.digest = result.digest;
        answer.latency_ns = result.latency_ns;
        memcpy(answer.logits, result.logits, sizeof answer.logits);
        CHECK(sl_layout_play(tapes, config->n_nodes, &net, &answer.played));
        answer.carried_ns = sl_tape_sum(tapes, config->n_nodes, SL_TAPE_CARRY);
    }
    sl_layout_close(world);
    for (uint32_t k = 0; k < SL_LAYOUT_NODES_MAX; k++)
        sl_tape_free(&tapes[k]);
    return answer;
}

static void all_have_one_answer(struct sl_pack *pack)
{
    struct sl_layout_config one = config_of(pack, SL_LAYOUT_LAYERS, 1);
    struct layout_answer expected = run(&one);
    CHECK(expected.digest != 0 && expected.played.bytes == 0);
    for (uint32_t n = 2; n <= 4; n++) {
        struct sl_layout_config layers = config_of(pack, SL_LAYOUT_LAYERS, n);
        struct layout_answer answer = run(&layers);
        CHECK_INT(answer.digest, expected.digest);
        CHECK(answer.played.bytes > 0);
    }
    for (uint32_t n = 1; n <= 7; n += 2) { /* 7 pages: not all nodes have as many, nor steps rows */
        struct sl_layout_config experts = config_of(pack, SL_LAYOUT_EXPERTS, n);
        struct layout_answer answer = run(&experts);
        CHECK_INT(answer.digest, expected.digest);
        CHECK((answer.played.bytes > 0) == (n > 1));
    }
    sl_pack_close(pack);
}

SL_TEST(integer_experts_give_the_bits_of_one_process_wherever_they_are)
{
    all_have_one_answer(make_pack(routed_text, SL_I8, SL_I4));
}

SL_TEST(float_experts_give_the_bits_of_one_process_wherever_they_are)
{
    all_have_one_answer(make_pack(routed_text, SL_BF16, SL_BF16));
}

SL_TEST(rows_of_more_than_one_page_and_nodes_that_run_at_once_change_nothing)
{
    struct sl_pack *pack = make_pack(routed_text, SL_I8, SL_I4);
    struct sl_layout_config one = config_of(pack, SL_LAYOUT_LAYERS, 1),
                            three = config_of(pack, SL_LAYOUT_EXPERTS, 3);
    uint64_t expected = run(&one).digest;
    three.rows = 128;
    CHECK_INT(run(&three).digest, expected);
    three.real = true;
    three.delay_us = 100;
    three.gbit = 1;
    CHECK_INT(run(&three).digest, expected);
    sl_pack_close(pack);
}

/* What it did takes no less on the wall than played: work is in both, so what is missing is the network's. Over UCX a frame says when
 * it would be there before it is sealed. */
SL_TEST(a_real_clock_has_no_less_than_the_delay_and_the_rate)
{
    struct sl_pack *pack = make_pack(routed_text, SL_I8, SL_I4);
    for (int i = 0; i < 8; i++) {
        struct sl_layout_config two = config_of(pack, i & 1 ? SL_LAYOUT_EXPERTS : SL_LAYOUT_LAYERS, 2);
        two.n_ids = 128;
        two.transport = i & 2 ? "ucx" : "local";
        two.real = true;
        two.delay_us = i & 4 ? 20000 : 0;
        two.gbit = i & 4 ? 0 : 0.02;
        struct layout_answer answer = run(&two);
        CHECK(answer.latency_ns >= answer.played.latency_ns - answer.carried_ns);
    }
    sl_pack_close(pack);
}

/* bf16 has 8 bits of significance: sums of a few parts that were rounded to it are off by some thousandths. */
SL_TEST(sums_of_nodes_in_bf16_are_near_and_cross_with_fewer_bytes)
{
    struct sl_pack *pack = make_pack(routed_text, SL_BF16, SL_BF16);
    struct sl_layout_config one = config_of(pack, SL_LAYOUT_LAYERS, 1),
                            two = config_of(pack, SL_LAYOUT_EXPERTS, 2);
    struct layout_answer expected = run(&one), exact = run(&two);
    two.combine = SL_COMBINE_NODE;
    struct layout_answer near = run(&two);
    double off = 0, size = 0;
    for (int i = 0; i < WORDS; i++) {
        off += pow(near.logits[i] - expected.logits[i], 2);
        size += pow(expected.logits[i], 2);
    }
    CHECK(near.digest != expected.digest);
    CHECK(off > 0 && sqrt(off / size) < 0.05);
    CHECK(near.played.bytes < 0.7 * exact.played.bytes);
    sl_pack_close(pack);
}
