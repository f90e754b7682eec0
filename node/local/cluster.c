/* Coordinator, stages and decode worker as threads of this process (cluster.h). The plan, the roles, the order log and the
 * wire are those of a cluster; only joining over gRPC is left out, because here everybody is known from the start. */
#include "node/local/cluster.h"
#include "base/cpu.h"
#include "base/digest.h"
#include "base/log.h"
#include "model/pack/pack_cache.h"
#include "node/coordinator/links.h"
#include "node/role/role.h"
#include "pipeline/stage/calibrate.h"
#include "pipeline/stage/device_kind.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct local_member { /* a stage or the decode worker */
    struct sl_cluster *cluster;
    uint32_t k; /* node 1 + k of the plan: a stage, a decode worker, a part of one */
    struct sl_stage *stage;
    struct sl_io *io;
    uint32_t n_links;
    struct sl_role *role;
    struct sl_role_state state;
    pthread_t thread;
    bool running, has_cost;
    struct sl_cost cost; /* of a stage's chunks, as it measured them */
    struct sl_err err;
};

struct sl_cluster {
    struct sl_cluster_config config;
    enum sl_device_kind device;
    struct sl_pack *pack;
    struct sl_plan plan;
    struct sl_fabric *fabric;
    uint8_t secret[32];
    uint32_t n_members;
    struct local_member *members;
    struct sl_io *io;             /* the coordinator's, until it owns it */
    struct sl_io *coordinator_io; /* the same, and then lent by it: sl_cluster_io */
    struct sl_coordinator *coordinator;
};

static void *member_thread(void *arg)
{
    struct local_member *m = arg;
    const struct sl_plan *plan = &m->cluster->plan;
    sl_status status = sl_role_run(m->role, m->io, m->n_links, &m->err);
    if (status == SL_OK)
        return NULL;
    sl_log_error("%s", m->err.text);
    /* its io lives on and would answer heartbeats: the loss must be seen */
    struct sl_plan_link links[SL_MAX_LINKS];
    for (uint32_t i = 0, n = sl_plan_links(plan, links); i < n; i++)
        if (links[i].from == 1 + m->k || links[i].to == 1 + m->k)
            sl_io_drop(m->io, links[i].id);
    return NULL;
}

static void on_spoiled(void *user, const struct sl_spoiled *spoiled)
{
    struct local_member *m = user;
    (void)spoiled; /* the role's end says it */
    sl_io_nudge(m->io);
}

static void where_is(void *user, uint32_t node, struct sl_io_address *address)
{
    const struct sl_cluster *c = user;
    *address = *sl_io_address(node == 0 ? c->coordinator_io : c->members[node - 1].io);
}

static void on_memory(void *user, void *memory, size_t bytes, bool taken)
{
    const struct local_member *m = user;
    sl_stage_frames(m->stage, memory, bytes, taken);
}

/* Rows by UCX go over UCX's lines. */
static const struct sl_transport_ops *transport_for(const struct sl_cluster *c, bool rows)
{
    bool ucx = strcmp(c->config.transport, "ucx") == 0;
    if (rows && c->plan.rows == SL_ROWS_UCX)
        return &sl_transport_ucx_device;
    if (rows)
        return ucx ? &sl_transport_ucx_nccl : &sl_transport_local_nccl;
    return ucx ? &sl_transport_ucx : &sl_transport_local;
}

/* member: whose, and its rows may go from device to device; NULL: the coordinator's. */
static sl_status open_io(struct sl_cluster *c, const char *name, struct local_member *member,
                         struct sl_io **io, struct sl_err *err)
{
    const struct sl_rows_device *rows = member ? sl_stage_links(member->stage) : NULL;
    struct sl_io_config config = {.transport = transport_for(c, rows != NULL),
                                  .rows_device = rows,
                                  .rows_from = c->plan.rows_from,
                                  .fabric = c->fabric,
                                  .address = "127.0.0.1",
                                  .thread_name = name,
                                  .on_memory = member ? on_memory : NULL,
                                  .memory_user = member,
                                  .limits = {.max_payload_bytes = 1ull << 30,
                                             .max_layers = c->plan.n_layers,
                                             .max_tokens = c->plan.context_tokens}};
    return sl_io_create(io, &config, err);
}

static sl_status make_plan(struct sl_cluster *c, struct sl_err *err)
{
    const struct sl_cluster_config *g = &c->config;
    if (strcmp(g->transport, "local") != 0 && strcmp(g->transport, "ucx") != 0)
        return sl_fail(err, SL_E_USAGE, "transport %s is unknown; use local or ucx", g->transport);
    if (g->rows == SL_ROWS_UCX && strcmp(g->transport, "ucx") != 0)
        return sl_fail(err, SL_E_USAGE, "rows by UCX go beside lines of UCX; use the transport ucx");
    enum sl_dtype kv_dtype;
    if (strcmp(g->kv, "auto") != 0 && (!sl_dtype_parse(&kv_dtype, g->kv) || kv_dtype > SL_I8))
        return sl_fail(err, SL_E_USAGE, "KV format %s is unknown; use auto, bf16, i8 or f32", g->kv);
    SL_TRY(sl_device_kind_read(&c->device, g->device, err));
    uint32_t allowed = sl_profile_allowed(g->numerics), able = allowed & sl_device_profiles(c->device);
    if (!allowed)
        return sl_fail(err, SL_E_USAGE, "numerics profile %s is unknown; use f32, bf16dot or auto",
                       g->numerics);
    struct sl_plan_options options = {.n_stages = g->n_stages,
                                      .layers = g->layers,
                                      .n_decoders = g->without_decode ? 0
                                                    : g->n_decoders   ? g->n_decoders
                                                                      : 1,
                                      .n_parts = g->n_parts,
                                      .kv_dtype = sl_pack_kv_dtype(c->pack, g->kv),
                                      .chunk_tokens = g->chunk_tokens,
                                      .kv_tokens = g->kv_tokens,
                                      .max_prefill = g->max_prefill,
                                      .max_running = g->max_running,
                                      .context_tokens = g->context_tokens,
                                      .epoch = 1,
                                      .rows = g->rows,
                                      .rows_from = g->rows_from,
                                      /* one that we lack is refused by the stage, which says why */
                                      .profile = sl_profile_best(able ? able : allowed)};
    return sl_plan_for_shape(&c->plan, sl_pack_shape(c->pack), &options, err);
}

static sl_status open_members(struct sl_cluster *c, struct sl_err *err)
{
    c->n_members = sl_plan_n_members(&c->plan);
    c->members = calloc(c->n_members, sizeof *c->members);
    if (!c->members || sl_random_bytes(c->secret, sizeof c->secret) != SL_OK ||
        sl_fabric_create(&c->fabric) != SL_OK)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the cluster");
    uint32_t threads = sl_cpu_threads(c->config.n_threads, c->plan.n_stages);
    for (uint32_t k = 0; k < c->n_members; k++) {
        struct local_member *m = &c->members[k];
        m->cluster = c;
        m->k = k;
        struct sl_share config = sl_plan_share(&c->plan, k, threads);
        config.device = k < 64 && c->config.late >> k & 1 ? SL_DEVICE_LATE : c->device;
        config.which = c->config.device;
        SL_TRY(sl_stage_create(&m->stage, c->pack, &config, &c->config.load, err));
        m->has_cost = k < c->plan.n_stages && sl_stage_cost(&m->cost, m->stage, c->pack);
        SL_TRY(sl_role_create(&m->role, m->stage, &c->plan, k, &m->state, err));
        SL_TRY(open_io(c, k >= c->plan.n_stages ? "decode" : "stage", m, &m->io, err));
        SL_TRY(sl_stage_watch(m->stage, &(struct sl_scrub_config){on_spoiled, m}, err));
    }
    SL_TRY(open_io(c, "coordinator", NULL, &c->io, err));
    c->coordinator_io = c->io;
    return SL_OK;
}

static void on_cancelled(void *user, uint64_t seq, uint64_t number)
{
    struct sl_cluster *c = user;
    for (uint32_t k = 0; k < c->plan.n_stages; k++) {
        sl_role_foretell(c->members[k].role, (struct sl_foretold_cancel){seq, number});
        sl_io_nudge(c->members[k].io);
    }
}

static sl_status start_coordinator(struct sl_cluster *c, uint32_t n_links, struct sl_err *err)
{
    struct sl_tokenizer *tokenizer;
    SL_TRY(sl_pack_tokenizer(c->pack, &tokenizer, err));
    struct sl_coordinator_config config = {.plan = &c->plan,
                                           .shape = sl_pack_shape(c->pack),
                                           .tokenizer = tokenizer,
                                           .model_path = sl_pack_path(c->pack),
                                           .model_name = sl_pack_name(c->pack),
                                           .read_file = sl_pack_read,
                                           .pack = c->pack,
                                           .io = c->io,
                                           .n_links = n_links,
                                           .schedule = c->config.schedule,
                                           .chunk_us = c->config.chunk_us,
                                           .slo_us = c->config.slo_us,
                                           .n_weights = c->config.n_weights,
                                           .weights = c->config.weights,
                                           .prefix_cache = c->config.prefix_cache,
                                           .on_cancelled = on_cancelled,
                                           .user = c};
    sl_status status = sl_coordinator_create(&c->coordinator, &config, err);
    if (status != SL_OK) {
        sl_tokenizer_destroy(tokenizer);
        return status;
    }
    c->io = NULL; /* the coordinator's from here on */
    sl_coordinator_set_profile(c->coordinator, c->plan.profile);
    for (uint32_t k = 0; k < c->plan.n_stages; k++)
        if (c->members[k].has_cost)
            sl_coordinator_set_cost(c->coordinator, k, &c->members[k].cost);
    return SL_OK;
}

static sl_status start_parts(struct sl_cluster *c, struct sl_err *err)
{
    SL_TRY(sl_pack_open_any(&c->pack, c->config.model, err));
    SL_TRY(make_plan(c, err));
    SL_TRY(open_members(c, err));
    uint32_t n_links;
    for (uint32_t k = 0; k < c->n_members; k++)
        SL_TRY(sl_links_open(c->members[k].io, &c->plan, 1 + k, c->secret, where_is, c,
                             &c->members[k].n_links, err));
    SL_TRY(sl_links_open(c->io, &c->plan, 0, c->secret, where_is, c, &n_links, err));
    for (uint32_t k = 0; k < c->n_members; k++) {
        if (pthread_create(&c->members[k].thread, NULL, member_thread, &c->members[k]) != 0)
            return sl_fail(err, SL_E_NOMEM, "cannot start a thread for stage %u", k);
        c->members[k].running = true;
    }
    SL_TRY(start_coordinator(c, n_links, err));
    return sl_coordinator_wait_ready(c->coordinator, 20000, err);
}

sl_status sl_cluster_start(struct sl_cluster **out, const struct sl_cluster_config *config,
                           struct sl_err *err)
{
    struct sl_cluster *c = calloc(1, sizeof *c);
    if (!c)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the cluster");
    c->config = *config;
    if (!c->config.transport)
        c->config.transport = "local";
    if (!c->config.kv)
        c->config.kv = "bf16";
    if (!c->config.numerics)
        c->config.numerics = "f32";
    sl_status status = start_parts(c, err);
    if (status != SL_OK) {
        sl_cluster_stop(c);
        return status;
    }
    *out = c;
    return SL_OK;
}

struct sl_coordinator *sl_cluster_coordinator(struct sl_cluster *cluster)
{
    return cluster->coordinator;
}

struct sl_io *sl_cluster_io(struct sl_cluster *c, uint32_t node)
{
    return node == 0 ? c->coordinator_io : c->members[node - 1].io;
}

void sl_cluster_end_decoder(struct sl_cluster *c, uint32_t decoder, uint32_t part)
{
    struct local_member *m = &c->members[sl_plan_part_node(&c->plan, decoder, part) - 1];
    sl_role_step_life(&m->state, SL_LIFE_STOP);
    sl_io_nudge(m->io);
    pthread_join(m->thread, NULL);
    m->running = false;
    sl_stage_unwatch(m->stage); /* it nudges the io */
    sl_io_destroy(m->io);
    m->io = NULL;
}

void sl_cluster_stop(struct sl_cluster *c)
{
    if (!c)
        return;
    if (c->coordinator)
        sl_coordinator_wait_idle(c->coordinator, 1000);
    /* first all are told, so that none mourns a neighbour */
    for (uint32_t k = 0; k < c->n_members && c->members; k++) {
        sl_role_step_life(&c->members[k].state, SL_LIFE_STOP);
        if (c->members[k].running)
            sl_io_nudge(c->members[k].io);
    }
    for (uint32_t k = 0; k < c->n_members && c->members; k++)
        if (c->members[k].running)
            pthread_join(c->members[k].thread, NULL);
    for (uint32_t k = 0; k < c->n_members && c->members; k++)
        if (c->members[k].stage)
            sl_stage_unwatch(c->members[k].stage);
    sl_coordinator_destroy(c->coordinator); /* before the links go, so that it mourns none */
    if (c->io)
        sl_io_destroy(c->io);
    for (uint32_t k = 0; k < c->n_members && c->members; k++)
        if (c->members[k].io)
            sl_io_destroy(c->members[k].io);
    for (uint32_t k = 0; k < c->n_members && c->members; k++)
        sl_role_destroy(c->members[k].role);
    for (uint32_t k = 0; k < c->n_members && c->members; k++)
        sl_stage_destroy(c->members[k].stage);
    if (c->fabric)
        sl_fabric_destroy(c->fabric);
    sl_pack_close(c->pack);
    free(c->members);
    free(c);
}
