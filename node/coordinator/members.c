/* Joining (members.h). What becomes of those who were here: members_away.c. */
#include "base/bytes.h"
#include "base/clock.h"
#include "base/digest.h"
#include "node/coordinator/links.h"
#include "node/coordinator/members_impl.h"
#include "node/rpc/pb_impl.h"
#include "sluice.pb-c.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { JOIN_BYTES_MAX = 4096 };

static void node_name(const struct sl_members *c, uint32_t node, char buffer[24])
{
    sl_plan_node_name(&c->plan, node, buffer);
}

static uint64_t now_ms(void)
{
    return sl_clock_ns() / 1000000u;
}

/* ---- the plan on its way to a member ---- */

struct link_room { /* of one event: links and their list heads */
    Sluice__V1__Link links[SL_MAX_LINKS], *connect[SL_MAX_LINKS], *accept[SL_MAX_LINKS];
    char peers[SL_MAX_LINKS][24], rows[8];
};

static void fill_links(struct sl_members *c, uint32_t node, Sluice__V1__Plan *out, struct link_room *room)
{
    struct sl_plan_link links[SL_MAX_LINKS];
    uint32_t n = sl_plan_links(&c->plan, links), used = 0;
    snprintf(room->rows, sizeof room->rows, "%s", sl_rows_name(c->plan.rows));
    out->connect = room->connect;
    out->accept = room->accept;
    for (uint32_t i = 0; i < n; i++) {
        const struct sl_plan_link *l = &links[i];
        bool of_decoder = l->decoder != SL_NO_DECODER; /* stages are told of those as they come */
        if ((l->from != node && l->to != node) ||
            (of_decoder && sl_plan_decoder_of(&c->plan, node) == SL_NO_DECODER))
            continue;
        bool connects = l->from == node;
        uint32_t peer = connects ? l->to : l->from;
        Sluice__V1__Link *link = &room->links[used];
        sluice__v1__link__init(link);
        node_name(c, peer, room->peers[used]);
        link->id = l->id;
        link->n_slots = connects ? l->from_slots : l->to_slots;
        link->slot_bytes = connects ? l->from_slot_bytes : l->to_slot_bytes;
        link->peer = room->peers[used];
        if (sl_plan_link_has_rows(l))
            link->rows = room->rows;
        struct sl_io_address *at = peer == 0 ? &c->data : &c->members[peer - 1].data;
        link->data = (ProtobufCBinaryData){at->n, at->bytes};
        if (connects)
            out->connect[out->n_connect++] = link;
        else
            out->accept[out->n_accept++] = link;
        used++;
    }
}

/* The parts of a place for decode workers. */
static struct joined_member *part_at(const struct sl_members *c, uint32_t d, uint32_t part)
{
    return &c->members[sl_plan_part_node(&c->plan, d, part) - 1];
}

static bool has_place(const struct joined_member *m)
{
    return sl_plan_decoder_of(&m->all->plan, m->node) != SL_NO_DECODER;
}

static bool place_is_full(const struct sl_members *c, uint32_t d)
{
    for (uint32_t part = 0; part < c->plan.n_parts; part++)
        if (!part_at(c, d, part)->call)
            return false;
    return true;
}

static bool place_is_ready(const struct sl_members *c, uint32_t d)
{
    for (uint32_t part = 0; part < c->plan.n_parts; part++)
        if (!part_at(c, d, part)->ready)
            return false;
    return true;
}

static void tell_of_decoders(struct sl_members *c, struct joined_member *stage)
{
    for (uint32_t i = 0; stage->node <= c->plan.n_stages && i < c->plan.max_decoders * c->plan.n_parts; i++)
        sl_joined_tell_decoder(stage, &c->members[c->plan.n_stages + i]);
}

static void send_plan(struct sl_members *c, struct joined_member *m) /* lock held */
{
    struct link_room *room = calloc(1, sizeof *room);
    if (!room) {
        sl_rpc_finish(m->call, SL_E_NOMEM, "the coordinator is out of memory; join again later");
        return;
    }
    Sluice__V1__Plan plan = SLUICE__V1__PLAN__INIT;
    Sluice__V1__JoinEvent event = SLUICE__V1__JOIN_EVENT__INIT;
    struct sl_share config = sl_plan_share(&c->plan, m->node - 1, 1);
    uint32_t layers[SL_MAX_STAGES];
    char profile[16];
    char kv_dtype[8], link_auth[8];
    snprintf(link_auth, sizeof link_auth, "%s", sl_link_auth_name(c->plan.link_auth));
    plan.link_auth = link_auth;
    snprintf(kv_dtype, sizeof kv_dtype, "%s", sl_dtype_name(c->plan.kv_dtype));
    snprintf(profile, sizeof profile, "%s", sl_profile_name(c->plan.profile));
    plan.profile = profile;
    plan.epoch = c->plan.epoch;
    plan.stage = m->node - 1;
    plan.n_stages = c->plan.n_stages;
    plan.layer_begin = config.begin;
    plan.layer_end = config.end;
    plan.chunk_tokens = c->plan.chunk_tokens;
    plan.max_prefill = c->plan.max_prefill;
    plan.max_running = c->plan.max_running;
    plan.context_tokens = c->plan.context_tokens;
    plan.kv_pages = c->plan.n_pages;
    plan.kv_dtype = kv_dtype;
    plan.max_decoders = c->plan.max_decoders;
    plan.decoder_life = m->life;
    plan.n_parts = c->plan.n_parts;
    for (uint32_t k = 0; k < c->plan.n_stages; k++)
        layers[k] = c->plan.begin[k + 1] - c->plan.begin[k];
    plan.n_layers = c->plan.n_stages;
    plan.layers = layers;
    plan.salt = (ProtobufCBinaryData){sizeof c->salt, c->salt};
    fill_links(c, m->node, &plan, room);
    event.event_case = SLUICE__V1__JOIN_EVENT__EVENT_PLAN;
    event.plan = &plan;
    sl_pb_write(m->call, &event.base);
    m->planned = true;
    free(room);
    tell_of_decoders(c, m);
}

/* Every stage that is here; one that is not is told when it comes back. */
static void tell_stages(struct sl_members *c, const struct joined_member *decoder) /* lock held */
{
    for (uint32_t k = 0; k < c->plan.n_stages; k++)
        sl_joined_tell_decoder(&c->members[k], decoder);
}

/* ---- a decode worker while the pipeline runs ---- */

static void open_decoder_link(void *user) /* on the coordinator's thread */
{
    const struct joined_member *m = user;
    struct sl_members *c = m->all;
    struct sl_err err;
    uint64_t link;
    uint32_t d = sl_plan_decoder_of(&c->plan, m->node);
    pthread_mutex_lock(&c->lock);
    bool here = m->planned;
    uint32_t life = m->life;
    struct sl_io_address at = m->data;
    const struct sl_plan plan = c->plan; /* the lives of others change */
    pthread_mutex_unlock(&c->lock);
    if (!here)
        return;
    sl_coordinator_expect_decoder(c->coordinator, d, life);
    if (sl_links_open_decoder(c->io, &plan, 0, m->node, life, c->link_secret, &at, &link, &err) != SL_OK)
        sl_coordinator_decoder_lost(c->coordinator, d, life, err.text);
}

/* When all of its parts are here they get their plan, and everybody a link to them. Lock held. */
static void attach_when_full(struct sl_members *c, uint32_t d)
{
    struct joined_member *chief = part_at(c, d, c->plan.n_parts - 1);
    if (!place_is_full(c, d))
        return;
    c->plan.decoder_life[d] = chief->life;
    for (uint32_t part = 0; part < c->plan.n_parts; part++)
        send_plan(c, part_at(c, d, part));
    for (uint32_t part = 0; part < c->plan.n_parts; part++)
        tell_stages(c, part_at(c, d, part));
    if (sl_coordinator_call(c->coordinator, open_decoder_link, chief) != SL_OK)
        sl_log_error("out of memory while a decode worker joined");
}

/* Lock held. */
static void dismiss(struct sl_members *c, struct joined_member *m, const char *sentence)
{
    m->away = false;
    sl_port_probe_end(&m->probe);
    if (m->call)
        sl_joined_send_stop(m, sentence ? sentence : "nothing of what it had is left");
    m->call = NULL;
    m->known = m->planned = m->ready = m->told_silent = m->hears_not = false;
    m->silences = 0;
    m->life = (m->life + 1) % SL_DECODER_LIVES;
    tell_stages(c, m);
}

void sl_members_decoder_gone(struct sl_members *c, uint32_t d, uint32_t life, const char *sentence)
{
    pthread_mutex_lock(&c->lock);
    for (uint32_t part = 0; part < c->plan.n_parts; part++) { /* one is lost, or told to go: all are */
        struct joined_member *m = part_at(c, d, part);
        if (m->life == life && m->planned)
            dismiss(c, m, sentence);
    }
    pthread_mutex_unlock(&c->lock);
}

void sl_members_foretell(struct sl_members *c, uint64_t seq, uint64_t number)
{
    pthread_mutex_lock(&c->lock);
    for (uint32_t k = 0; k < c->plan.n_stages; k++)
        sl_joined_foretell(&c->members[k], seq, number);
    pthread_mutex_unlock(&c->lock);
}

static void where_is(void *user, uint32_t node, struct sl_io_address *address)
{
    struct sl_members *c = user;
    pthread_mutex_lock(&c->lock);
    *address = c->members[node - 1].data;
    pthread_mutex_unlock(&c->lock);
}

static void open_own_links(void *user) /* on the coordinator's thread */
{
    struct sl_members *c = user;
    struct sl_err err;
    uint32_t n;
    pthread_mutex_lock(&c->lock);
    const struct sl_plan plan = c->plan;
    pthread_mutex_unlock(&c->lock);
    if (sl_links_open(c->io, &plan, 0, c->link_secret, where_is, c, &n, &err) != SL_OK)
        sl_coordinator_mourn(c->coordinator, err.text);
}

/* What the coordinator allows and every member that is here offers; lock held. */
static uint32_t common_profiles(const struct sl_members *c)
{
    uint32_t set = c->config.profiles;
    for (uint32_t i = 0; i < c->n_members; i++)
        set &= c->members[i].call ? c->members[i].profiles : ~0u;
    return set;
}

/* Ways for rows that all stages offer which are here, and one more: from GPU to GPU only where all are of one driver, and where no
 * frame has to be proved by a MAC of its payload, for which the host would have to read it. Lock held. */
static uint32_t common_ways(const struct sl_members *c, uint32_t offered, const char *driver)
{
    bool beside = c->plan.link_auth != SL_LINK_AUTH_PAYLOAD && sl_rows_may_go_beside(c->plan.d_model);
    uint32_t set = offered & (beside ? ~0u : 1u << SL_ROWS_STAGED);
    for (uint32_t k = 0; k < c->plan.n_stages; k++) {
        const struct joined_member *m = &c->members[k];
        if (m->call)
            set &= m->ways & (strcmp(m->driver, driver) == 0 ? ~0u : 1u << SL_ROWS_STAGED);
    }
    return set;
}

/* The fastest; but from GPU to GPU only if it is asked for, as UCX always is, or if rows are ever large enough. */
static enum sl_rows_way best_way(const struct sl_members *c)
{
    uint32_t ways = common_ways(c, c->members[0].ways, c->members[0].driver);
    uint64_t bytes = (uint64_t)c->plan.max_chunk * c->plan.d_model * sizeof(float);
    bool worth = bytes >= c->plan.rows_from || !(ways & 1u << SL_ROWS_STAGED);
    if (c->plan.n_stages == 1 || !worth)
        return SL_ROWS_STAGED;
    return ways & 1u << SL_ROWS_NCCL ? SL_ROWS_NCCL : ways & 1u << SL_ROWS_UCX ? SL_ROWS_UCX : SL_ROWS_STAGED;
}

static void plan_when_complete(struct sl_members *c) /* lock held */
{
    if (c->life != SL_LIFE_FORMING || !c->coordinator)
        return;
    for (uint32_t i = 0; i < c->n_members; i++)
        if (sl_joined_is_needed(&c->members[i]) && !c->members[i].call)
            return;
    sl_life_step(&c->life, SL_LIFE_COMPLETE);
    c->plan.profile = sl_profile_best(common_profiles(c));
    sl_coordinator_set_profile(c->coordinator, c->plan.profile);
    c->plan.rows = best_way(c);
    sl_log_info("all nodes are here; numerics profile %s; rows from stage to stage: %s",
                sl_profile_name(c->plan.profile), sl_rows_name(c->plan.rows));
    for (uint32_t i = c->n_members;
         i-- > 0;) /* decode workers first: stages are told of those that have a plan */
        if (sl_joined_is_needed(&c->members[i]))
            send_plan(c, &c->members[i]);
    if (sl_coordinator_call(c->coordinator, open_own_links, c) != SL_OK)
        sl_log_error("out of memory while the pipeline was put together");
    for (uint32_t d = c->plan.n_decoders; d < c->plan.max_decoders; d++)
        attach_when_full(c, d); /* more than it waited for */
}

/* ---- Join ---- */

/* How many parts of a place are here; UINT32_MAX: it is complete, or was and has not been given up yet. */
static uint32_t n_parts_here(const struct sl_members *c, uint32_t d)
{
    uint32_t n = 0;
    for (uint32_t part = 0; part < c->plan.n_parts; part++) {
        if (part_at(c, d, part)->planned)
            return UINT32_MAX;
        n += part_at(c, d, part)->call != NULL;
    }
    return n < c->plan.n_parts ? n : UINT32_MAX;
}

/* Whoever comes is the next part of a place that is being filled, so that there is never more than one; while the pipeline forms, of
 * the first, which it waits for. */
static uint32_t free_part(const struct sl_members *c)
{
    uint32_t best = SL_NO_DECODER, most = 0, part = 0;
    for (uint32_t d = 0; d < c->plan.max_decoders; d++) {
        uint32_t n = n_parts_here(c, d);
        if (n != UINT32_MAX && (best == SL_NO_DECODER || (n > most && c->life == SL_LIFE_READY))) {
            best = d;
            most = n;
        }
    }
    if (best == SL_NO_DECODER)
        return 0;
    while (part_at(c, best, part)->call)
        part++;
    return part_at(c, best, part)->node;
}

/* Its own, if it has one; else one that is free; 0: none is. Who takes up a place again finds that it is another's then. */
static uint32_t place_for_decoder(const struct sl_members *c, const Sluice__V1__Node *j)
{
    for (uint32_t i = c->plan.n_stages; i < c->n_members; i++) {
        const struct joined_member *m = &c->members[i];
        if (m->known && sl_equal_constant_time(m->id, j->member.data, sizeof m->id))
            return m->node;
    }
    uint32_t node = free_part(c);
    return node == 0 && j->epoch ? sl_plan_decode_node(&c->plan, 0) : node;
}

static sl_status check_join(const struct sl_members *c, const Sluice__V1__Node *j, uint32_t *node,
                            struct sl_err *err)
{
    bool decode = strcmp(j->role, "decode") == 0;
    if (!decode && strcmp(j->role, "stage") != 0)
        return sl_fail(err, SL_E_INVALID, "role \"%.20s\" is unknown; join as stage or decode", j->role);
    if (decode && c->plan.max_decoders == 0)
        return sl_fail(err, SL_E_CONFIG,
                       "this pipeline was started without a decode worker; join as a stage");
    if (!decode && j->stage >= c->plan.n_stages)
        return sl_fail(err, SL_E_CONFIG,
                       "stage %u does not exist: the coordinator was started with %u stages, numbered from 0",
                       j->stage, c->plan.n_stages);
    if (strcmp(j->model_digest, c->digest) != 0)
        return sl_fail(
            err, SL_E_CONFIG,
            "the model differs: the coordinator serves the pack %.12s, this node has %.12s; give both the same pack",
            c->digest, j->model_digest);
    if (strcmp(j->version, SLUICE_VERSION) != 0 || j->wire_version != SL_WIRE_VERSION)
        return sl_fail(
            err, SL_E_CONFIG,
            "the version differs: the coordinator is sluice %s (wire %d), this node %.40s (wire %u); run the same",
            SLUICE_VERSION, SL_WIRE_VERSION, j->version, j->wire_version);
    if (j->n_layers != c->plan.n_layers || j->data_port == 0 || j->data_port > 65535 ||
        strlen(j->data_address) >= SL_IO_HOST_BYTES || j->data.len == 0 ||
        j->data.len > SL_IO_ADDRESS_BYTES || j->member.len != SL_JOIN_NONCE)
        return sl_fail(
            err, SL_E_INVALID,
            "the join request is malformed (layers, member, data address or port); run the same version");
    *node = decode ? place_for_decoder(c, j) : sl_plan_stage_node(j->stage);
    if (*node == 0)
        return sl_fail(
            err, SL_E_EXISTS,
            "there are %u decode workers already, as many as the coordinator has places for; stop one, or "
            "start the coordinator with more --max-decoders",
            c->plan.max_decoders);
    return SL_OK;
}

/* Names that this version does not know are profiles that we could not run either. */
static uint32_t offered_profiles(const Sluice__V1__Node *j)
{
    uint32_t set = 0;
    enum sl_profile profile;
    for (size_t i = 0; i < j->n_profiles; i++)
        set |= sl_profile_parse(&profile, j->profiles[i]) ? 1u << profile : 0;
    return set;
}

/* Must leave one profile that everybody can run, and once it is decided that one; lock held. */
static sl_status check_profiles(const struct sl_members *c, uint32_t offered, struct sl_err *err)
{
    char ours[64], theirs[64];
    uint32_t common = c->life == SL_LIFE_READY ? 1u << c->plan.profile : common_profiles(c);
    if (common & offered)
        return SL_OK;
    return sl_fail(
        err, SL_E_CONFIG,
        "no numerics profile in common: this pipeline can run %s, this node offers %s; start the coordinator and all "
        "nodes with --numerics auto or f32, or leave out machines without AVX512_BF16",
        sl_profile_list(common, ours, sizeof ours),
        offered ? sl_profile_list(offered, theirs, sizeof theirs) : "none");
}

static uint32_t offered_ways(const Sluice__V1__Node *j)
{
    uint32_t set = j->n_rows == 0 ? 1u << SL_ROWS_STAGED : 0;
    enum sl_rows_way way;
    for (size_t i = 0; i < j->n_rows; i++)
        set |= sl_rows_by_name(j->rows[i], &way) ? 1u << way : 0;
    return set;
}

/* Must leave one way for rows between all stages; lock held. */
static sl_status check_ways(const struct sl_members *c, const Sluice__V1__Node *j, struct sl_err *err)
{
    uint32_t offered = offered_ways(j);
    if (strcmp(j->role, "stage") != 0 || c->plan.n_stages == 1 || common_ways(c, offered, j->driver))
        return SL_OK;
    if (c->plan.link_auth == SL_LINK_AUTH_PAYLOAD)
        return sl_fail(
            err, SL_E_CONFIG,
            "rows cannot go by nccl or ucx where --link-auth payload has the host prove every byte: start "
            "the coordinator with --link-auth header, or stage %u with --rows staged",
            j->stage);
    return sl_fail(
        err, SL_E_CONFIG,
        "stage %u and those that are here have no way for rows in common: nccl and ucx are for stages "
        "that all say so, on GPUs of one driver; start all stages with --rows auto or staged",
        j->stage);
}

static void on_join_done(struct sl_rpc_call *call, void *user, bool cancelled)
{
    struct joined_member *m = user;
    struct sl_members *c = m->all;
    char name[24];
    (void)cancelled;
    pthread_mutex_lock(&c->lock);
    if (m->call == call) { /* else another took its place */
        m->call = NULL;
        if (m->planned && c->life == SL_LIFE_READY)
            sl_joined_went_away(m);
        else
            sl_log_info("%s left", sl_plan_node_name(&c->plan, m->node, name));
    }
    pthread_mutex_unlock(&c->lock);
    sl_rpc_unref(call);
}

/* A stranger may try as often as he likes: the log hears of it once a while. */
static void refuse(struct sl_members *c, struct sl_rpc_call *call, sl_status status, const struct sl_err *err)
{
    uint32_t left_out;
    char more[48] = "";
    if (sl_log_may(&c->refusals, sl_clock_ns(), &left_out)) {
        if (left_out)
            snprintf(more, sizeof more, " (%u before it were not logged)", left_out);
        sl_log_warn("a node was refused: %s%s", err->text, more);
    }
    sl_rpc_finish(call, status, err->text);
}

static void on_hello(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_members *c = context;
    struct sl_pb pb = {0};
    uint8_t ticket[SL_JOIN_TICKET], proof[SL_JOIN_PROOF];
    Sluice__V1__HelloRequest *h = (Sluice__V1__HelloRequest *)(void *)sl_pb_unpack(
        &pb, call, &sluice__v1__hello_request__descriptor, message, bytes);
    if (!h)
        return;
    if (h->nonce.len != SL_JOIN_NONCE) {
        sl_rpc_finish(call, SL_E_INVALID, "the hello is malformed; run the same version");
    } else if (sl_ticket_make(&c->tickets, now_ms(), ticket) != SL_OK) {
        sl_rpc_finish(call, SL_E_UNAVAILABLE, "no random bytes for a ticket; join again later");
    } else {
        sl_join_welcome(&c->config.key, h->nonce.data, ticket, proof);
        Sluice__V1__HelloReply reply = SLUICE__V1__HELLO_REPLY__INIT;
        reply.ticket = (ProtobufCBinaryData){sizeof ticket, ticket};
        reply.proof = (ProtobufCBinaryData){sizeof proof, proof};
        sl_pb_reply(call, &reply.base);
    }
    sl_pb_free(&pb);
}

/* It knows the key, and this request was never used before; lock held. */
static sl_status check_proof(struct sl_members *c, const Sluice__V1__JoinRequest *j, struct sl_err *err)
{
    uint8_t session[32];
    const char *bad = j->nonce.len != SL_JOIN_NONCE || j->ticket.len != SL_JOIN_TICKET
                          ? "the join request is malformed"
                          : NULL;
    if (!bad) {
        sl_join_session(&c->config.key, j->nonce.data, j->ticket.data, session);
        if (!sl_join_proved(session, "join", j->node.data, j->node.len, j->proof.data, j->proof.len))
            bad = "the join key differs";
        else
            bad = sl_ticket_use(&c->tickets, now_ms(), j->ticket.data, j->ticket.len);
    }
    return bad ? sl_fail(err, SL_E_DENIED,
                         "%s; give this node the coordinator's --join-key-file, and run the same version",
                         bad)
               : SL_OK;
}

/* From here on this is the member's stream; one that it had before is of no use to it. Lock held. */
static void take_stream(struct joined_member *m, struct sl_rpc_call *call)
{
    struct sl_rpc_call *before = m->call;
    m->call = call;
    sl_rpc_ref(call);
    sl_rpc_hooks(call, m, on_join_done, NULL);
    if (before)
        sl_rpc_finish(before, SL_E_UNAVAILABLE, "this node has opened another Join stream since");
    sl_joined_beat(m); /* it was accepted */
}

static void take_member(struct sl_members *c, struct joined_member *m, struct sl_rpc_call *call,
                        const Sluice__V1__Node *j) /* lock held */
{
    char name[24];
    snprintf(m->address, sizeof m->address, "%s", j->data_address);
    snprintf(m->name, sizeof m->name, "%.60s", j->node_name);
    sl_io_address_set(&m->data, j->data.data, j->data.len);
    m->port = (uint16_t)j->data_port;
    m->pid = j->pid;
    m->profiles = offered_profiles(j);
    m->ways = offered_ways(j);
    snprintf(m->driver, sizeof m->driver, "%s", j->driver);
    memcpy(m->id, j->member.data, sizeof m->id);
    sl_join_own_key(&c->config.key, m->id, m->own_key);
    m->known = true;
    take_stream(m, call);
    node_name(c, m->node, name);
    m->ready = m->away = m->hears_not = m->told_silent = false;
    m->silences = 0;
    sl_log_info("%s joined from %s:%u (%s, pid %llu, %u threads)", name, m->address, m->port, m->name,
                (unsigned long long)m->pid, j->threads);
    if (c->life == SL_LIFE_READY)
        attach_when_full(c, sl_plan_decoder_of(&c->plan, m->node));
    else
        plan_when_complete(c);
}

/* It is the process that joined in this place, as it was: its links go to where its neighbours were told. */
static bool is_same(const struct joined_member *m, const Sluice__V1__Node *j)
{
    return m->known && sl_equal_constant_time(m->id, j->member.data, sizeof m->id) &&
           j->data.len == m->data.n && memcmp(j->data.data, m->data.bytes, m->data.n) == 0;
}

/* A member that was sent the plan, whether or not that arrived, goes on. Lock held. */
static sl_status take_back(struct sl_members *c, struct joined_member *m, struct sl_rpc_call *call,
                           const Sluice__V1__Node *j, struct sl_err *err)
{
    char name[24];
    if (j->epoch == c->plan.epoch && m->node > c->plan.n_stages && !m->planned)
        return sl_fail(
            err, SL_E_REFUSED,
            "the pipeline has taken this decode worker for lost and goes on without it; start it again");
    if (j->epoch != 0 && j->epoch != c->plan.epoch)
        return sl_fail(err, SL_E_REFUSED,
                       "this coordinator does not know the pipeline that the node is part of: it was started "
                       "again since; start the node again, too");
    if (!m->planned || !is_same(m, j))
        return sl_fail(
            err, SL_E_DENIED,
            "only the process that has this place (%s, pid %llu) may take it up again; stop that one first",
            m->name, (unsigned long long)m->pid);
    if (c->life == SL_LIFE_LOST)
        return sl_fail(err, SL_E_REFUSED,
                       "the pipeline has lost a node and ends; start this node again with the coordinator");
    take_stream(m, call);
    sl_log_info("%s took up its Join stream again", sl_plan_node_name(&c->plan, m->node, name));
    if (c->life == SL_LIFE_STOPPED)
        sl_joined_send_stop(m, c->stop_reason);
    else if (j->epoch == 0) /* it was under way when the stream broke */
        send_plan(c, m);
    else
        tell_of_decoders(c, m);
    sl_joined_came_back(m);
    return SL_OK;
}

static sl_status join_node(struct sl_members *c, struct sl_rpc_call *call, const Sluice__V1__JoinRequest *j,
                           const Sluice__V1__Node *node, struct sl_err *err) /* lock held */
{
    uint32_t number = 0;
    SL_TRY(check_proof(c, j, err));
    SL_TRY(check_join(c, node, &number, err));
    struct joined_member *m = &c->members[number - 1];
    if (node->epoch != 0 || (m->planned && is_same(m, node)))
        return take_back(c, m, call, node, err);
    if (c->life == SL_LIFE_STOPPED)
        return sl_fail(err, SL_E_UNAVAILABLE, "the pipeline is stopping");
    bool may_come_later = number > c->plan.n_stages && c->life == SL_LIFE_READY;
    if ((m->call && !is_same(m, node)) || (c->life != SL_LIFE_FORMING && !may_come_later))
        return sl_fail(err, SL_E_EXISTS,
                       "there is one in this place already (%s, pid %llu); stop that one first", m->name,
                       (unsigned long long)m->pid);
    SL_TRY(check_profiles(c, offered_profiles(node), err));
    SL_TRY(check_ways(c, node, err));
    take_member(c, m, call, node);
    return SL_OK;
}

static void on_join(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_members *c = context;
    if (bytes > JOIN_BYTES_MAX) { /* before it is digested for somebody who need not know the key */
        sl_rpc_finish(call, SL_E_INVALID, "the join request is too long; run the same version");
        return;
    }
    struct sl_pb pb = {0}, node_pb = {0};
    struct sl_err err;
    Sluice__V1__JoinRequest *j = (Sluice__V1__JoinRequest *)(void *)sl_pb_unpack(
        &pb, call, &sluice__v1__join_request__descriptor, message, bytes);
    if (!j)
        return;
    Sluice__V1__Node *node = (Sluice__V1__Node *)(void *)sl_pb_unpack(
        &node_pb, call, &sluice__v1__node__descriptor, j->node.data, j->node.len);
    if (node) {
        pthread_mutex_lock(&c->lock);
        sl_status status = join_node(c, call, j, node, &err);
        pthread_mutex_unlock(&c->lock);
        if (status != SL_OK)
            refuse(c, call, status, &err);
        sl_pb_free(&node_pb);
    }
    sl_pb_free(&pb);
}

/* ---- Ready, Leave, Status ---- */

/* Who says that it is this member, and proves it with a message of this kind about this epoch; NULL: it is not. Lock held. */
static struct joined_member *proven_member(struct sl_members *c, const char *role, uint32_t stage,
                                           const char *kind, uint64_t epoch, uint64_t number,
                                           const ProtobufCBinaryData *proof)
{
    uint8_t about[SL_JOIN_ABOUT];
    bool decode = strcmp(role, "decode") == 0; /* which of them, its proof tells */
    sl_join_about(epoch, number, about);
    for (uint32_t i = decode ? c->plan.n_stages : stage; i < c->n_members && epoch == c->plan.epoch; i++) {
        struct joined_member *m = &c->members[i];
        if (m->planned && sl_join_proved(m->own_key, kind, about, sizeof about, proof->data, proof->len))
            return m;
        if (!decode)
            break;
    }
    return NULL;
}

/* What a stage says of its chunks, the first time; of one that says nonsense the cost is guessed, as of one that says nothing. */
static void hear_cost(struct sl_members *c, const struct joined_member *m, const Sluice__V1__ReadyRequest *r)
{
    struct sl_cost cost;
    char name[24];
    if (r->n_cost == 0 || m->ready)
        return;
    if (m->node - 1 < c->plan.n_stages && sl_cost_take(&cost, r->cost, r->n_cost))
        sl_coordinator_set_cost(c->coordinator, m->node - 1, &cost);
    else
        sl_log_warn(
            "%s says what its chunks cost in %zu numbers that can't be: until some have run, it is guessed",
            sl_plan_node_name(&c->plan, m->node, name), r->n_cost);
}

static void on_ready(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_members *c = context;
    struct sl_pb pb = {0};
    struct sl_err err;
    Sluice__V1__ReadyRequest *r = (Sluice__V1__ReadyRequest *)(void *)sl_pb_unpack(
        &pb, call, &sluice__v1__ready_request__descriptor, message, bytes);
    if (!r)
        return;
    pthread_mutex_lock(&c->lock);
    struct joined_member *m = proven_member(c, r->role, r->stage, "ready", r->epoch, 0, &r->proof);
    if (m) {
        hear_cost(c, m, r);
        m->ready = true;
        if (has_place(m) && place_is_ready(c, sl_plan_decoder_of(&c->plan, m->node)))
            sl_coordinator_decoder_ready(c->coordinator, sl_plan_decoder_of(&c->plan, m->node), m->life);
    }
    pthread_mutex_unlock(&c->lock);
    Sluice__V1__ReadyReply reply = SLUICE__V1__READY_REPLY__INIT;
    if (m) {
        sl_pb_reply(call, &reply.base);
        if (c->config.on_member_ready)
            c->config.on_member_ready(c->config.user);
    } else {
        refuse(c, call,
               sl_fail(&err, SL_E_DENIED, "this node has not joined, or its plan is an old one; join again"),
               &err);
    }
    sl_pb_free(&pb);
}

static void on_silence(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_members *c = context;
    struct sl_pb pb = {0};
    struct sl_err err;
    char name[24];
    Sluice__V1__SilenceRequest *s = (Sluice__V1__SilenceRequest *)(void *)sl_pb_unpack(
        &pb, call, &sluice__v1__silence_request__descriptor, message, bytes);
    if (!s)
        return;
    const char *kind = s->silent ? "silent" : "heard";
    pthread_mutex_lock(&c->lock);
    struct joined_member *m = proven_member(c, s->role, s->stage, kind, s->epoch, s->number, &s->proof);
    if (m && s->number > m->silences) { /* they may overtake each other */
        m->silences = s->number;
        if (s->silent)
            sl_log_warn("%s hears nothing from %.23s", sl_plan_node_name(&c->plan, m->node, name), s->peer);
        m->hears_not = s->silent;
        sl_joined_tell_silence(m);
    }
    pthread_mutex_unlock(&c->lock);
    Sluice__V1__SilenceReply reply = SLUICE__V1__SILENCE_REPLY__INIT;
    if (m)
        sl_pb_reply(call, &reply.base);
    else
        refuse(c, call, sl_fail(&err, SL_E_DENIED, "only a member may say who is silent"), &err);
    sl_pb_free(&pb);
}

static void on_leave(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_members *c = context;
    struct sl_pb pb = {0};
    struct sl_err err;
    char name[24];
    Sluice__V1__LeaveRequest *l = (Sluice__V1__LeaveRequest *)(void *)sl_pb_unpack(
        &pb, call, &sluice__v1__leave_request__descriptor, message, bytes);
    if (!l)
        return;
    pthread_mutex_lock(&c->lock);
    const struct joined_member *m =
        proven_member(c, l->role, l->stage, l->all ? "leave all" : "leave", l->epoch, 0, &l->proof);
    /* the pipeline goes on without it, once it has begun to */
    bool alone = m && !l->all && m->node > c->plan.n_stages && c->life == SL_LIFE_READY &&
                 sl_coordinator_life(c->coordinator) != SL_LIFE_FORMING;
    if (m)
        node_name(c, m->node, name);
    if (alone) {
        sl_log_info("%s was told to stop: nothing new begins there", name);
        sl_coordinator_decoder_leaves(c->coordinator, sl_plan_decoder_of(&c->plan, m->node), m->life);
    }
    pthread_mutex_unlock(&c->lock);
    sl_pb_free(&pb);
    if (!m) {
        refuse(c, call,
               sl_fail(&err, SL_E_DENIED, "only a member may leave; send SIGTERM to the coordinator instead"),
               &err);
        return;
    }
    Sluice__V1__LeaveReply reply = SLUICE__V1__LEAVE_REPLY__INIT;
    sl_pb_reply(call, &reply.base);
    if (!alone && c->config.on_leave)
        c->config.on_leave(c->config.user, name);
}

static void on_status(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_members *c = context;
    (void)message, (void)bytes; /* an empty request */
    Sluice__V1__StatusReply reply = SLUICE__V1__STATUS_REPLY__INIT;
    Sluice__V1__NodeStatus *nodes = calloc(c->n_members, sizeof *nodes),
                           **list = calloc(c->n_members, sizeof *list);
    static char stage_role[] = "stage", decode_role[] = "decode",
                states[5][8] = {"absent", "joined", "planned", "ready", "away"};
    if (!nodes || !list) {
        free(nodes);
        free(list);
        sl_rpc_finish(call, SL_E_NOMEM, "out of memory");
        return;
    }
    uint32_t n_stages_ready = 0, n_parts_ready = 0; /* parts of decode workers that are whole */
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 0; i < c->n_members; i++) {
        const struct joined_member *m = &c->members[i];
        struct sl_share config = sl_plan_share(&c->plan, i, 1);
        bool decode = i >= c->plan.n_stages, ready = m->ready && !m->away;
        if (!sl_joined_is_needed(m) && !m->known)
            continue; /* a place that nobody has to take */
        Sluice__V1__NodeStatus *node = &nodes[reply.n_nodes];
        sluice__v1__node_status__init(node);
        node->role = decode ? decode_role : stage_role;
        node->stage = i;
        node->node_name = (char *)(uintptr_t)m->name;
        node->data_address = (char *)(uintptr_t)m->address;
        node->layer_begin = config.begin;
        node->layer_end = config.end;
        node->pid = m->pid;
        node->state = states[m->away ? 4 : !m->call ? 0 : m->ready ? 3 : m->planned ? 2 : 1];
        n_stages_ready += ready && !decode;
        n_parts_ready += ready && decode && place_is_ready(c, sl_plan_decoder_of(&c->plan, m->node));
        list[reply.n_nodes++] = node;
    }
    reply.nodes = list;
    reply.n_stages = c->plan.n_stages;
    reply.ready = n_stages_ready == c->plan.n_stages && c->life == SL_LIFE_READY &&
                  (n_parts_ready >= c->plan.n_parts || c->plan.max_decoders == 0);
    reply.state = states[reply.ready ? 3 : 1];
    sl_pb_reply(call, &reply.base);
    pthread_mutex_unlock(&c->lock);
    free(nodes);
    free(list);
}

/* ---- life ---- */

sl_status sl_members_create(struct sl_members **out, const struct sl_members_config *config,
                            struct sl_err *err)
{
    struct sl_members *c = calloc(1, sizeof *c);
    if (!c)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the table of members");
    c->config = *config;
    if (!c->config.profiles)
        c->config.profiles = 1u << SL_PROFILE_F32;
    c->plan = *config->plan;
    snprintf(c->digest, sizeof c->digest, "%s", config->model_digest);
    c->data = *config->data;
    pthread_mutex_init(&c->lock, NULL);
    sl_clock_cond_init(&c->changed);
    c->n_members = sl_plan_n_members(&c->plan);
    c->members = calloc(c->n_members, sizeof *c->members);
    if (!c->members || sl_ticket_office_init(&c->tickets) != SL_OK ||
        sl_random_bytes(c->salt, sizeof c->salt) != SL_OK) {
        sl_members_destroy(c);
        return sl_fail(err, SL_E_NOMEM, "no memory, or no random bytes, for the table of members");
    }
    sl_join_link_secret(&c->config.key, c->plan.epoch, c->salt, c->link_secret);
    for (uint32_t i = 0; i < c->n_members; i++)
        c->members[i] = (struct joined_member){.all = c, .node = 1 + i, .probe = SL_PORT_PROBE_NONE};
    if (sl_members_watch(c) != SL_OK) {
        sl_members_destroy(c);
        return sl_fail(err, SL_E_NOMEM, "cannot start a thread for the members");
    }
    *out = c;
    return SL_OK;
}

void sl_members_destroy(struct sl_members *members)
{
    if (!members)
        return;
    sl_members_unwatch(members);
    pthread_cond_destroy(&members->changed);
    pthread_mutex_destroy(&members->lock);
    free(members->members);
    free(members);
}

uint32_t sl_members_methods(struct sl_members *members, struct sl_rpc_method *methods)
{
    methods[0] = (struct sl_rpc_method){
        .path = "/sluice.v1.Control/Join", .streaming = true, .on_message = on_join, .context = members};
    methods[1] = (struct sl_rpc_method){
        .path = "/sluice.v1.Control/Ready", .on_message = on_ready, .context = members};
    methods[2] = (struct sl_rpc_method){
        .path = "/sluice.v1.Control/Leave", .on_message = on_leave, .context = members};
    methods[3] = (struct sl_rpc_method){
        .path = "/sluice.v1.Control/Status", .on_message = on_status, .context = members};
    methods[4] = (struct sl_rpc_method){
        .path = "/sluice.v1.Control/Hello", .on_message = on_hello, .context = members};
    methods[5] = (struct sl_rpc_method){
        .path = "/sluice.v1.Control/Silence", .on_message = on_silence, .context = members};
    for (uint32_t i = 0; i < SL_MEMBERS_METHODS; i++)
        methods[i].roles =
            methods[i].on_message == on_status ? SL_RPC_NODE | SL_RPC_ADMINISTRATOR : SL_RPC_NODE;
    return SL_MEMBERS_METHODS;
}

void sl_members_attach(struct sl_members *members, struct sl_coordinator *coordinator, struct sl_io *io)
{
    pthread_mutex_lock(&members->lock);
    members->coordinator = coordinator;
    members->io = io;
    plan_when_complete(members);
    pthread_mutex_unlock(&members->lock);
}

void sl_members_stop(struct sl_members *members, const char *reason)
{
    pthread_mutex_lock(&members->lock);
    sl_life_step(&members->life, SL_LIFE_STOP);
    snprintf(members->stop_reason, sizeof members->stop_reason, "%s", reason);
    for (uint32_t i = 0; i < members->n_members; i++) {
        struct joined_member *m = &members->members[i];
        if (m->call)
            sl_joined_send_stop(m, reason);
        m->away = false; /* should it come back, it is told */
    }
    pthread_mutex_unlock(&members->lock);
}

bool sl_members_await(struct sl_members *members)
{
    bool any = false;
    pthread_mutex_lock(&members->lock);
    for (uint32_t i = 0; i < members->n_members; i++)
        any = any || (members->members[i].away && members->life == SL_LIFE_READY);
    pthread_mutex_unlock(&members->lock);
    return any;
}

const char *sl_members_missing(struct sl_members *members, bool ready, char *buffer, size_t bytes)
{
    const char *missing = NULL;
    size_t used = 0;
    pthread_mutex_lock(&members->lock);
    for (uint32_t i = 0; i < members->n_members; i++) {
        const struct joined_member *m = &members->members[i];
        if (!sl_joined_is_needed(m) || ((m->call || m->away) && (!ready || m->ready)))
            continue;
        char name[24];
        node_name(members, 1 + i, name);
        int n = snprintf(buffer + used, bytes - used, "%s%s", used ? ", " : "", name);
        if (n < 0 || (size_t)n >= bytes - used)
            break;
        used += (size_t)n;
        missing = buffer;
    }
    pthread_mutex_unlock(&members->lock);
    return missing;
}
