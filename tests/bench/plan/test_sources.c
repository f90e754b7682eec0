/* What a plan is made of, read from files: machines, sizes of a model, measured costs. Each refusal is one sentence that names the
 * line. */
#include "bench/plan/nodes.h"
#include "bench/plan/source.h"
#include "kernels/cuda/kinds.h"
#include "tests/check.h"
#include <math.h>

static struct sl_planner_node nodes[SL_PLANNER_NODES];

static sl_status read_nodes(const char *text, uint32_t *n, struct sl_err *err)
{
    return sl_plan_nodes_parse(nodes, n, "nodes.yaml", text, strlen(text), err);
}

SL_TEST(nodes_have_the_rates_of_their_kind_and_what_stands_beside_it)
{
    uint32_t n;
    struct sl_err err = {0};
    REQUIRE(read_nodes("nodes:\n"
                       "  - {kind: h200, count: 3, memory-gb: 100, skew: 1.3}\n"
                       "  - name: old\n    devices: 2\n    memory-gb: 40\n    matrix-tflops: 100\n"
                       "    attention-tflops: 50\n    memory-gbs: 1000\n    gbit: 8\n"
                       "link: {gbit: 400, latency-us: 7}\n",
                       &n, &err) == SL_OK);
    CHECK_INT(n, 4);
    CHECK(nodes[0].memory_bytes == 8e11 && nodes[2].skew == 1.3 && nodes[1].matrix_flops == 8e15);
    CHECK(nodes[0].link_speed == 5e10 && nodes[3].link_speed == 1e9 && nodes[3].link_us == 7);
    CHECK(nodes[3].devices == 2 && nodes[3].attention_flops == 1e14 && nodes[3].inner_speed == 0);
    CHECK_STR(nodes[3].name, "old");
    CHECK(nodes[0].rates == sl_plan_kind_find("h200")->rates && nodes[3].rates == NULL);
    CHECK(memcmp(&nodes[0], &nodes[2], sizeof nodes[0]) == 0); /* alike, to the byte: they are compared so */
}

/* Each kind makes a node, and says where its rates are from; a share of a peak is below it. */
SL_TEST(every_kind_of_gpu_is_a_node_that_can_be_planned_for)
{
    char names[160], text[80];
    sl_plan_kind_names(names, sizeof names);
    CHECK(strlen(names) < sizeof names - 1);
    for (uint32_t i = 0; i < sl_gpu_n_kinds; i++) {
        const struct sl_gpu_kind *gpu = &sl_gpu_kinds[i];
        const struct sl_plan_kind *kind = sl_plan_kind_find(gpu->name);
        uint32_t n;
        struct sl_err err = {0};
        CHECK_CONTAINS(names, gpu->name);
        REQUIRE(kind != NULL);
        CHECK(kind->rates && strlen(kind->rates) > 20);
        CHECK(kind->matrix_tflops > 0.4 * gpu->int8_tops && kind->matrix_tflops < 0.7 * gpu->int8_tops);
        CHECK(fabs(kind->memory_gbs / gpu->memory_gbs - 0.8) < 0.01);
        snprintf(text, sizeof text, "nodes:\n - {kind: %s, count: 2}\n", gpu->name);
        REQUIRE(read_nodes(text, &n, &err) == SL_OK);
        CHECK(n == 2 && nodes[1].rates == kind->rates && nodes[1].devices == kind->devices);
    }
}

SL_TEST(nodes_that_are_none_are_refused_by_line)
{
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"nodes:\n - {kind: h200, memory-gb: 0}\n", "line 2: memory-gb is 0; a number above 0"},
        {"nodes:\n - kind: h200\n   kind: h100\n", "line 3: a node of two kinds, h200 and h100"},
        {"nodes:\n - kind: [h200, h100]\n", "nothing that a node has"},
        {"nodes:\n - kind: h300\n",
         "the kind h300 is not known (h20, h100, h200, b200, a100, l40s, rtx-5090)"},
        {"link: {gbit: 0}\nnodes:\n - kind: h20\n", "line 1: gbit is 0; a number above 0"},
        {"nodes:\n - {kind: h20, gbit: 0}\n", "gbit is 0"},
        {"nodes:\n - {kind: h20, gbit: nan}\n", "gbit is nan"},
        {"nodes:\n - {kind: h20, count: 1.5}\n", "a whole number"},
        {"nodes:\n - {kind: h20, count: 1000}\n - {kind: h20, count: 25}\n", "more than 1024 nodes"},
        {"nodes:\n - {kind: h20, count: 2, count: 3}\n", "count is given twice"},
        {"nodes:\n - {memory-gb: 3}\n", "no matrix-tflops"},
        {"nodes:\n - {kind: h20, speed: 3}\n", "nodes.0.speed is nothing that a node has"},
        {"nodes:\n - {kind: h20}\nlink: {gbits: 3}\n", "link.gbits is not known"},
        {"nodes: []\n", "not known"},
        {"# nothing\n", "names no node"},
        {"nodes:\n kind: h20\n", "nodes.kind is nothing"},
        {"- kind: h20\n", "flat list"},
        {"nodes: [[[[[[[1]]]]]]]\n", "nested deeper"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t n;
        struct sl_err err = {0};
        CHECK_INT(read_nodes(cases[i].text, &n, &err), SL_E_CONFIG);
        CHECK_CONTAINS(err.text, cases[i].part);
        CHECK(strlen(err.text) < sizeof err.text - 1);
    }
}

static sl_status read_config(struct sl_plan_config *c, const char *text, struct sl_err *err)
{
    return sl_plan_config_parse(c, "config.json", text, strlen(text), err);
}

SL_TEST(a_published_config_has_the_sizes_of_the_shape_of_that_name)
{
    static const char text[] =
        "{\"architectures\": [\"DeepseekV3ForCausalLM\"], \"first_k_dense_replace\": 3, \"hidden_size\": 7168,\n"
        "\"intermediate_size\": 18432, \"kv_lora_rank\": 512, \"max_position_embeddings\": 163840,\n"
        "\"moe_intermediate_size\": 2048, \"n_routed_experts\": 256, \"n_shared_experts\": 1,\n"
        "\"num_attention_heads\": 128, \"num_experts_per_tok\": 8, \"num_hidden_layers\": 61,\n"
        "\"num_key_value_heads\": 128, \"q_lora_rank\": 1536, \"qk_nope_head_dim\": 128, \"qk_rope_head_dim\": 64,\n"
        "\"quantization_config\": {\"weight_block_size\": [128, 128]}, \"tie_word_embeddings\": false,\n"
        "\"v_head_dim\": 128, \"vocab_size\": 129280, \"rope_scaling\": null}";
    static struct sl_planner_model ours, theirs;
    struct sl_plan_config c;
    struct sl_plan_format format = {8, 4, 2};
    struct sl_err err = {0};
    REQUIRE(read_config(&c, text, &err) == SL_OK);
    c.name = "deepseek-v3";
    sl_plan_model_of(&theirs, &c, &format);
    sl_plan_model_of(&ours, sl_plan_shape_find("DeepSeek-V3"), &format);
    for (uint32_t i = 0; i < ours.n_layers; i++)
        CHECK(memcmp(&ours.layers[i], &theirs.layers[i], sizeof ours.layers[i]) == 0);
    CHECK(ours.n_layers == theirs.n_layers && ours.head_bytes == theirs.head_bytes);
    CHECK(ours.layers[0].expert_bytes == 0 && ours.layers[3].expert_bytes == 0.5 * 3 * 7168.0 * 2048 * 256);
    CHECK(ours.layers[3].kv_bytes == 2 * 576);
}

SL_TEST(a_config_of_what_is_not_planned_for_is_refused_by_its_key)
{
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"{\"hidden_size\": 64}", "no num_hidden_layers"},
        {"{\"num_hidden_layers\": 1e9}", "num_hidden_layers is 1e9"},
        {"{\"num_hidden_layers\": -1}", "num_hidden_layers is -1"},
        {"{\"num_hidden_layers\": 2, \"index_topk\": 2048}", "index_topk changes what attention costs"},
        {"{\"layer_types\": [\"full_attention\", \"linear_attention\"]}",
         "layers of the kind linear_attention"},
        {"{\"num_hidden_layers\": 2, \"hidden_size\": 8, \"num_attention_heads\": 2, \"vocab_size\": 9,"
         "\"num_experts\": 4, \"num_experts_per_tok\": 5}",
         "num_experts_per_tok"},
        {"{\"num_hidden_layers\": 2, \"hidden_size\": 8, \"num_attention_heads\": 2, \"vocab_size\": 9}",
         "no intermediate_size"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sl_plan_config c;
        struct sl_err err = {0};
        CHECK(read_config(&c, cases[i].text, &err) != SL_OK);
        CHECK_CONTAINS(err.text, cases[i].part);
    }
}

static const char costs[] =
    "{\"digest\": \"x\", \"stages\": [\n"
    " {\"stage\": 0, \"layers\": [0, 4], \"coefficients\": {\"c\": 40, \"gamma\": 0.4, \"b\": 4, \"a\": 0.04, \"w\": 400,"
    " \"e\": 0, \"hit\": 0.25}, \"points\": [{\"pos\": 0, \"rows\": 1}]},\n"
    " {\"stage\": 1, \"layers\": [4, 6], \"coefficients\": {\"c\": 1, \"gamma\": 1, \"b\": 1, \"a\": 1, \"w\": 1,"
    " \"e\": 77, \"hit\": 0.25}}],\n \"target_us\": 5}";

SL_TEST(a_layer_costs_the_mean_of_the_stages_before_the_last)
{
    struct sl_plan_measured m;
    struct sl_err err = {0};
    REQUIRE(sl_plan_cost_parse(&m, "cost.json", costs, strlen(costs), &err) == SL_OK);
    CHECK(m.n_layers == 6 && m.n_stages == 2 && m.layer.hit == 0.25);
    CHECK(m.layer.us[SL_COST_C] == 10 && m.layer.us[SL_COST_B] == 1 && m.layer.us[SL_COST_W] == 100 &&
          m.layer.us[SL_COST_E] == 77);
    CHECK(sl_plan_cost_parse(&m, "cost.json", "{}", 2, &err) == SL_E_DATA);
    CHECK_CONTAINS(err.text, "cost.json has no stages");
    CHECK(sl_plan_cost_parse(&m, "cost.json", costs, 60, &err) == SL_E_CONFIG);
    static const char half[] = "{\"stages\": [{\"layers\": [0, 4], \"coefficients\": {\"c\": 40}}]}";
    CHECK(sl_plan_cost_parse(&m, "cost.json", half, strlen(half), &err) == SL_E_DATA);
    CHECK_CONTAINS(err.text, "stage 0 has no layers and coefficients");
}

SL_TEST(stages_that_were_measured_have_their_own_cost_and_their_layers)
{
    struct sl_plan_measured m;
    struct sl_err err = {0};
    REQUIRE(sl_plan_cost_parse(&m, "cost.json", costs, strlen(costs), &err) == SL_OK);
    CHECK(m.begin[0] == 0 && m.begin[1] == 4 && m.begin[2] == 6);
    CHECK(m.stages[0].us[SL_COST_W] == 400 && m.layers[0].us[SL_COST_W] == 100);
    CHECK(m.stages[1].us[SL_COST_E] == 77 && m.layers[0].us[SL_COST_E] == 77);
    static const char gap[] =
        "{\"stages\": [{\"layers\": [1, 4], \"coefficients\": {\"c\": 40, \"gamma\": 0, \"b\": 1, \"a\": 0,"
        " \"w\": 0, \"e\": 0, \"hit\": 0}}]}";
    CHECK(sl_plan_cost_parse(&m, "cost.json", gap, strlen(gap), &err) == SL_E_DATA);
    CHECK_CONTAINS(err.text, "stage 0 begins with layer 1");
}
