/* simulate-scripted SCRIPT.json: a simulated pipeline as the script says it is, under the load that the script says, and the records of its
 * order log, a line of JSON each as /debug/records of a coordinator has them. tests/e2e/test_records.py holds them against those of
 * processes. A request comes after_ms after the one before it and so many records (after).
 *
 *   {"stages": 2, "layers": 6, "schedule": "slo", "chunk": 0, "chunk_ms": 300, "prefix_cache": true, "max_prefill": 4,
 *    "max_running": 4, "max_requests": 1032, "context": 4096, "kv_tokens": 8192, "costs": [[c, gamma, b, a, w, e, p], ...], "decode_cost": [...],
 *    "seed": 1, "late_ms": 0,
 *    "requests": [{"after": 0, "after_ms": 0, "ids": [...], "max_tokens": 4, "priority": 0, "slo_ms": 0, "n": 1}, ...]} */
#include "bench/simulate/world_impl.h"
#include "node/edge/records_json.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

struct play {
    json_t *root;
    struct sl_world_config config;
    struct sl_cost costs[SL_MAX_STAGES + 1];
    struct sl_sim_request *requests;
    uint32_t *after;
    uint32_t n;
    struct sl_arena arena;
    struct sl_tail tail;
};

static void die(const char *what)
{
    fprintf(stderr, "simulate-scripted: %s\n", what);
    exit(65);
}

static uint32_t number(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    if (!value || !json_is_integer(value) || json_integer_value(value) < 0)
        die(name);
    return (uint32_t)json_integer_value(value);
}

static void read_cost(struct sl_cost *cost, const json_t *list)
{
    double numbers[SL_COST_NUMBERS];
    for (size_t i = 0; i < SL_COST_NUMBERS; i++)
        numbers[i] = json_number_value(json_array_get(list, i));
    if (json_array_size(list) != SL_COST_NUMBERS || !sl_cost_take(cost, numbers, SL_COST_NUMBERS))
        die("a cost is seven numbers");
}

static void read_request(struct sl_sim_request *r, const json_t *said)
{
    const json_t *ids = json_object_get(said, "ids"), *priority = json_object_get(said, "priority");
    uint32_t *copy = calloc(json_array_size(ids), sizeof *copy);
    if (!copy)
        die("out of memory");
    *r = (struct sl_sim_request){.arrive_us = UINT64_C(1000) * number(said, "after_ms"),
                                 .ids = copy,
                                 .n_ids = (uint32_t)json_array_size(ids),
                                 .max_tokens = number(said, "max_tokens"),
                                 .n = number(said, "n"),
                                 .priority = (int32_t)json_integer_value(priority),
                                 .ignore_eos = true};
    if (number(said, "slo_ms") > 0)
        r->target_us = r->arrive_us + UINT64_C(1000) * number(said, "slo_ms");
    for (size_t i = 0; i < r->n_ids; i++)
        copy[i] = (uint32_t)json_integer_value(json_array_get(ids, i)) % SL_WORLD_VOCAB;
    for (uint32_t k = 0; k < r->n; k++)
        if (!(r->answers[k].tokens = calloc(r->max_tokens, sizeof *r->answers[k].tokens)))
            die("out of memory");
}

static void note(void *user, uint64_t at_us, const struct sl_order *order,
                 const struct sl_page_numbers *pages)
{
    struct play *s = user;
    sl_tail_add(&s->tail, at_us, order, pages);
}

static void read_script(struct play *s, const char *path)
{
    json_error_t error;
    if (!(s->root = json_load_file(path, JSON_REJECT_DUPLICATES, &error)))
        die(error.text);
    const json_t *costs = json_object_get(s->root, "costs"), *list = json_object_get(s->root, "requests");
    uint32_t n_stages = number(s->root, "stages");
    if (n_stages > SL_MAX_STAGES || json_array_size(costs) != n_stages)
        die("a cost for each stage");
    for (uint32_t k = 0; k < n_stages; k++)
        read_cost(&s->costs[k], json_array_get(costs, k));
    read_cost(&s->costs[n_stages], json_object_get(s->root, "decode_cost"));
    s->n = (uint32_t)json_array_size(list);
    s->requests = calloc(s->n, sizeof *s->requests);
    s->after = calloc(s->n, sizeof *s->after);
    if (!s->requests || !s->after)
        die("out of memory");
    for (uint32_t i = 0; i < s->n; i++) {
        read_request(&s->requests[i], json_array_get(list, i));
        s->after[i] = number(json_array_get(list, i), "after");
    }
    const char *schedule = json_string_value(json_object_get(s->root, "schedule"));
    s->config = (struct sl_world_config){
        .seed = number(s->root, "seed"),
        .after = s->after,
        .late_us = 1000 * number(s->root, "late_ms"),
        .n_layers = number(s->root, "layers"),
        .n_stages = n_stages,
        .n_decoders = 1,
        .max_prefill = number(s->root, "max_prefill"),
        .max_running = number(s->root, "max_running"),
        .max_requests = number(s->root, "max_requests"), /* seqs follow from it */
        .chunk_tokens = number(s->root, "chunk"),
        .context_tokens = number(s->root, "context"),
        .kv_tokens = number(s->root, "kv_tokens"),
        .prefix_cache = json_is_true(json_object_get(s->root, "prefix_cache")),
        .schedule = schedule && schedule[0] == 'f' ? SL_SCHEDULE_FIFO : SL_SCHEDULE_SLO,
        .budget_us = UINT64_C(1000) * number(s->root, "chunk_ms"),
        .cost = s->costs[0],
        .costs = s->costs,
        .record = note,
        .record_user = s,
    };
}

int main(int n_args, char **args)
{
    struct play s = {0};
    struct sl_world_report report;
    struct sl_text text = {0};
    struct sl_err err;
    if (n_args != 2)
        die("give a script");
    if (sl_arena_init(&s.arena, sl_tail_bytes(), &err) != SL_OK || sl_tail_init(&s.tail, &s.arena) != SL_OK)
        die("out of memory");
    read_script(&s, args[1]);
    if (sl_world_run(&s.config, s.requests, s.n, &report, &err) != SL_OK)
        die(err.text);
    sl_records_json(&s.tail, SL_WORLD_START_US, &text);
    fputs(text.data, stdout);
    free(text.data);
    for (uint32_t i = 0; i < s.n; i++) {
        free((uint32_t *)(uintptr_t)s.requests[i].ids);
        for (uint32_t k = 0; k < s.requests[i].n; k++)
            free(s.requests[i].answers[k].tokens);
    }
    free(s.requests);
    free(s.after);
    json_decref(s.root);
    sl_arena_fini(&s.arena);
    return 0;
}
