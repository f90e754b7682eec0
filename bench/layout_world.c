/* The threads of a layout's nodes (layout_world.h): opened together, let go together at a gate for each round, so that nobody's
 * opening is measured, and looked at while they stand there. Where there are fewer processors than nodes, one mutex stands for the only one that is used: who has it
 * works, who waits for a frame gives it away. */
#include "bench/layout_world.h"
#include "base/clock.h"
#include "base/digest.h"
#include "bench/layout_impl.h"
#include "pipeline/stage/split.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { SEQUENCE = 1 };

/* ---- the clock ---- */

static uint64_t clock_of(const struct sl_layout_node *node)
{
    return node->world->config.real ? sl_clock_ns() : sl_clock_thread_ns();
}

void sl_layout_work(struct sl_layout_node *node)
{
    if (!node->world->config.real && !node->holds) {
        pthread_mutex_lock(&node->world->processor);
        node->holds = true;
    }
    node->since_ns = clock_of(node);
}

void sl_layout_worked(struct sl_layout_node *node, enum sl_tape_part part, size_t amount)
{
    double ns = (double)(clock_of(node) - node->since_ns);
    sl_tape_add(&node->tape,
                (struct sl_tape_event){
                    .kind = SL_TAPE_WORK, .part = (uint8_t)part, .amount = (uint32_t)amount, .ns = ns});
}

void sl_layout_rest(struct sl_layout_node *node)
{
    if (node->holds)
        pthread_mutex_unlock(&node->world->processor);
    node->holds = false;
}

/* ---- the gate ---- */

/* false: it is broken, and the world ends. */
static bool pass(struct sl_layout_world *world)
{
    struct sl_layout_gate *gate = &world->gate;
    pthread_mutex_lock(&gate->mutex);
    uint64_t n_passed = gate->n_passed;
    if (++gate->n_waiting > world->config.n_nodes) {
        gate->n_waiting = 0;
        gate->n_passed++;
        pthread_cond_broadcast(&gate->moved);
    }
    while (gate->n_passed == n_passed && !gate->broken)
        pthread_cond_wait(&gate->moved, &gate->mutex);
    bool passed = gate->n_passed != n_passed;
    pthread_mutex_unlock(&gate->mutex);
    return passed;
}

static void break_gate(struct sl_layout_world *world)
{
    pthread_mutex_lock(&world->gate.mutex);
    world->gate.broken = true;
    pthread_cond_broadcast(&world->gate.moved);
    pthread_mutex_unlock(&world->gate.mutex);
}

/* ---- a node ---- */

static sl_status open_node(struct sl_layout_node *node, struct sl_err *err)
{
    const struct sl_layout_world *world = node->world;
    const struct sl_layout_config *c = &world->config;
    struct sl_share share = {.end = world->shape->n_layers,
                             .with_embed = true,
                             .with_head = true,
                             .n_threads = 1,
                             .kv_dtype = sl_pack_kv_dtype(c->pack, c->kv),
                             .n_pages = sl_pages_of(c->n_ids),
                             .max_tokens = c->rows,
                             .max_sequences = 1,
                             .context_tokens = c->n_ids};
    if (world->program->narrow)
        world->program->narrow(world, node->index, &share);
    SL_TRY(sl_stage_create(&node->stage, world->config.pack, &share, NULL, err));
    return world->program->open(node, err);
}

static sl_status begin_sequence(struct sl_layout_node *node)
{
    struct sl_sequences *sequences = sl_stage_sequences(node->stage);
    if (node->sequence)
        sl_sequences_close(sequences, node->sequence);
    node->sequence = sl_sequences_open(sequences, SEQUENCE);
    return sl_stage_reserve(node->stage, node->sequence, node->world->config.n_ids);
}

static void run_round(struct sl_layout_node *node)
{
    node->tape.n = 0;
    node->logits = NULL;
    node->begun_ns = sl_clock_ns();
    node->world->program->run(node);
    node->done_ns = sl_clock_ns();
    sl_layout_rest(node);
}

/* The gate is passed when all are open; when a round is wanted; when all have empty pages; and when all are done. In between rounds
 * they wait there, and their pages may be looked at. */
static void *node_main(void *arg)
{
    struct sl_layout_node *node = arg;
    struct sl_layout_world *world = node->world;
    if (open_node(node, &node->err) != SL_OK)
        atomic_store(&world->failed, true);
    bool goes_on = pass(world);
    while (goes_on && pass(world)) {
        if (!atomic_load(&world->failed) && begin_sequence(node) != SL_OK)
            sl_layout_fail(node, "there are no pages for the prompt");
        goes_on = pass(world);
        if (goes_on && !atomic_load(&world->failed))
            run_round(node);
        goes_on = goes_on && pass(world);
    }
    world->program->close(node);
    return NULL;
}

/* ---- the world ---- */

static sl_status failure_of(const struct sl_layout_world *world, struct sl_err *err)
{
    for (uint32_t k = 0; k < world->config.n_nodes; k++)
        if (world->nodes[k].err.status != SL_OK) {
            *err = world->nodes[k].err;
            return err->status;
        }
    return sl_fail(err, SL_E_INTERNAL, "a layout failed and no node says why; report this");
}

static sl_status start_nodes(struct sl_layout_world *world, struct sl_err *err)
{
    for (uint32_t k = 0; k < world->config.n_nodes; k++) {
        if (pthread_create(&world->nodes[k].thread, NULL, node_main, &world->nodes[k]) != 0)
            return sl_fail(err, SL_E_UNAVAILABLE,
                           "no thread for node %u; raise the limit of processes (ulimit -u)", k);
        world->n_running++;
    }
    pass(world);
    return atomic_load(&world->failed) ? failure_of(world, err) : SL_OK;
}

sl_status sl_layout_open(struct sl_layout_world **out, const struct sl_layout_config *config,
                         struct sl_err *err)
{
    struct sl_layout_world *world = calloc(1, sizeof *world);
    if (!world)
        return sl_fail(err, SL_E_NOMEM, "out of memory for a layout");
    *out = world;
    world->config = *config;
    world->shape = sl_pack_shape(config->pack);
    world->program = config->kind == SL_LAYOUT_LAYERS ? &sl_layout_layers : &sl_layout_experts;
    pthread_mutex_init(&world->processor, NULL);
    pthread_mutex_init(&world->gate.mutex, NULL);
    sl_clock_cond_init(&world->gate.moved);
    assert(config->n_nodes > 0 && config->n_nodes <= SL_LAYOUT_NODES_MAX);
    for (uint32_t k = 0; k < config->n_nodes; k++) {
        world->nodes[k].world = world;
        world->nodes[k].index = k;
    }
    sl_status status = sl_layout_wire(world, err);
    world->logits = malloc(world->shape->vocab * sizeof *world->logits);
    if (status == SL_OK && !world->logits)
        status = sl_fail(err, SL_E_NOMEM, "out of memory for logits");
    if (status == SL_OK)
        status = start_nodes(world, err);
    if (status != SL_OK) {
        sl_layout_close(world);
        *out = NULL;
    }
    return status;
}

/* K and V of all layers, and the last row's logits. Experts: every node has all pages. */
static uint64_t digest_of(struct sl_layout_world *world)
{
    uint64_t kv = 0, chain[2];
    uint32_t n = world->config.kind == SL_LAYOUT_LAYERS ? world->config.n_nodes : 1;
    for (uint32_t k = 0; k < n; k++)
        kv = sl_stage_kv_digest(world->nodes[k].stage, world->nodes[k].sequence, world->config.n_ids, kv);
    chain[0] = kv;
    chain[1] = sl_xxh3(world->logits, world->shape->vocab * sizeof *world->logits);
    return sl_xxh3(chain, sizeof chain);
}

/* The nodes stand still at the gate. */
static sl_status take_result(struct sl_layout_world *world, struct sl_tape *tapes,
                             struct sl_layout_result *result, struct sl_err *err)
{
    uint64_t begun_ns = UINT64_MAX, done_ns = 0;
    bool found = false;
    for (uint32_t k = 0; k < world->config.n_nodes; k++) {
        struct sl_layout_node *node = &world->nodes[k];
        struct sl_tape tape = tapes[k];
        tapes[k] = node->tape;
        node->tape = tape;
        begun_ns = node->begun_ns < begun_ns ? node->begun_ns : begun_ns;
        done_ns = node->done_ns > done_ns ? node->done_ns : done_ns;
        found = found || node->logits;
        if (node->logits)
            memcpy(world->logits, node->logits, world->shape->vocab * sizeof *world->logits);
    }
    if (!found)
        return sl_fail(err, SL_E_INTERNAL, "no node has the last row; report this");
    *result = (struct sl_layout_result){(double)(done_ns - begun_ns), digest_of(world), world->logits};
    return SL_OK;
}

sl_status sl_layout_round(struct sl_layout_world *world, struct sl_tape *tapes,
                          struct sl_layout_result *result, struct sl_err *err)
{
    pass(world); /* pages are emptied */
    pass(world); /* they run */
    pass(world);
    if (atomic_load(&world->failed))
        return failure_of(world, err);
    return take_result(world, tapes, result, err);
}

static void stop_nodes(struct sl_layout_world *world)
{
    break_gate(world);
    for (uint32_t k = 0; k < world->n_running; k++)
        pthread_join(world->nodes[k].thread, NULL);
}

void sl_layout_close(struct sl_layout_world *world)
{
    if (!world)
        return;
    stop_nodes(world);
    sl_layout_unwire(world);
    for (uint32_t k = 0; k < world->config.n_nodes; k++) {
        sl_stage_destroy(world->nodes[k].stage);
        sl_tape_free(&world->nodes[k].tape);
    }
    pthread_cond_destroy(&world->gate.moved);
    pthread_mutex_destroy(&world->gate.mutex);
    pthread_mutex_destroy(&world->processor);
    free(world->logits);
    free(world);
}
