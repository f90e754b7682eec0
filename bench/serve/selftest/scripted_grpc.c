/* The gRPC side of the scripted server: as much of vllm.grpc.engine.VllmEngine as a gateway and a harness ask for, and health.
 *
 * The play wakes a call, the call's own worker asks the scene what is due, packs it, looks at the clock and hands it over: nothing
 * but the core's own work lies between the time that is written down and the wire.
 *
 * A stream that is dropped ends with UNAVAILABLE after its last token, which is what a client is told whose connection broke:
 * breaking the connection itself would take the other calls on it along. */
#include "base/clock.h"
#include "bench/serve/selftest/scripted.h"
#include "node/edge/edge.h"
#include "node/edge/tokenizer_archive.h"
#include "node/rpc/pb_impl.h"
#include "vllm_engine.pb-c.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORKERS = 2, MAX_ABORT_IDS = 1024, GARBAGE_BYTES = 32, ROOM_BYTES = 512 };

typedef Vllm__Grpc__Engine__GenerateRequest generate_request;
typedef Vllm__Grpc__Engine__GenerateResponse generate_response;

struct sl_scripted_grpc {
    struct sl_scripted *scripted;
    struct sl_rpc_server *server;
    struct sl_health *health;
    struct sl_archive *archive;
    struct sl_rpc_method methods[SL_EDGE_METHODS];
};

struct performance { /* of one call, on its worker */
    struct sl_scripted *scripted;
    struct sl_rpc_call *call;
    struct sl_turn *turn; /* NULL: it has ended */
    uint32_t *ids;        /* [ids_room]: of one message */
    uint32_t ids_room;
};

/* A pointer that a generated struct wants without const; packing only reads it. */
static char *unconst(const char *text)
{
    return (char *)(uintptr_t)text;
}

/* ---- messages ---- */

/* Packs, then looks at the clock, then hands it over. */
static sl_status write_response(struct performance *p, const generate_response *response, uint64_t *at_ns)
{
    size_t bytes = vllm__grpc__engine__generate_response__get_packed_size(response);
    uint8_t small[ROOM_BYTES], *packed = bytes <= sizeof small ? small : malloc(bytes);
    if (!packed)
        return SL_E_NOMEM;
    vllm__grpc__engine__generate_response__pack(response, packed);
    *at_ns = sl_clock_ns();
    sl_status status = sl_rpc_write(p->call, packed, bytes);
    if (packed != small)
        free(packed);
    return status;
}

/* The tokens [first, first + n) of the answer. */
static sl_status list_ids(struct performance *p, uint32_t first, uint32_t n)
{
    const struct sl_words *words = p->scripted->words;
    if (n > p->ids_room) {
        uint32_t *grown = realloc(p->ids, n * sizeof *grown);
        if (!grown)
            return SL_E_NOMEM;
        p->ids = grown;
        p->ids_room = n;
    }
    for (uint32_t k = 0; k < n; k++)
        p->ids[k] = words->ids[sl_words_at(words, p->turn->number, first + k)];
    return SL_OK;
}

static sl_status write_tokens(struct performance *p, const struct sl_send *send, uint64_t *at_ns)
{
    generate_response response = VLLM__GRPC__ENGINE__GENERATE_RESPONSE__INIT;
    Vllm__Grpc__Engine__GenerateStreamChunk chunk = VLLM__GRPC__ENGINE__GENERATE_STREAM_CHUNK__INIT;
    SL_TRY(list_ids(p, send->first, send->n));
    chunk.n_token_ids = send->n;
    chunk.token_ids = p->ids;
    sl_scripted_usage(p->turn, send->first + send->n, &chunk.prompt_tokens, &chunk.completion_tokens);
    response.response_case = VLLM__GRPC__ENGINE__GENERATE_RESPONSE__RESPONSE_CHUNK;
    response.chunk = &chunk;
    return write_response(p, &response, at_ns);
}

static sl_status write_complete(struct performance *p, uint64_t *at_ns)
{
    generate_response response = VLLM__GRPC__ENGINE__GENERATE_RESPONSE__INIT;
    Vllm__Grpc__Engine__GenerateComplete complete = VLLM__GRPC__ENGINE__GENERATE_COMPLETE__INIT;
    SL_TRY(list_ids(p, 0, p->turn->n_tokens));
    complete.n_output_ids = p->turn->n_tokens;
    complete.output_ids = p->ids;
    complete.finish_reason = unconst("length");
    sl_scripted_usage(p->turn, p->turn->n_tokens, &complete.prompt_tokens, &complete.completion_tokens);
    response.response_case = VLLM__GRPC__ENGINE__GENERATE_RESPONSE__RESPONSE_COMPLETE;
    response.complete = &complete;
    return write_response(p, &response, at_ns);
}

static sl_status perform(struct performance *p, const struct sl_send *send, uint64_t *at_ns)
{
    uint8_t garbage[GARBAGE_BYTES];
    *at_ns = sl_clock_ns();
    switch (send->kind) {
    case SL_SEND_EMPTY:
        return write_tokens(p, &(struct sl_send){.first = p->turn->n_sent}, at_ns);
    case SL_SEND_TOKENS:
        return write_tokens(p, send, at_ns);
    case SL_SEND_EXTRA:
        return write_tokens(p, &(struct sl_send){.n = 1}, at_ns);
    case SL_SEND_GARBAGE:
        memset(garbage, 0xff, sizeof garbage); /* a key that never ends */
        return sl_rpc_write(p->call, garbage, sizeof garbage);
    case SL_SEND_WHOLE:
    case SL_SEND_FINISH:
        return write_complete(p, at_ns);
    case SL_SEND_DROP:
        sl_rpc_finish(p->call, SL_E_UNAVAILABLE, "the stream is dropped here, as the script has it");
        return SL_OK;
    case SL_SEND_CLOSE:
        sl_rpc_finish(p->call, SL_OK, NULL);
        return SL_OK;
    }
    return SL_OK;
}

/* ---- a call ---- */

static void end(struct performance *p, const char *ending)
{
    struct sl_turn *turn = p->turn;
    p->turn = NULL;
    if (turn)
        sl_play_end(p->scripted->play, turn, ending);
}

static void go_on(struct performance *p)
{
    struct sl_send send;
    uint64_t at_ns;
    if (p->turn && atomic_load(&p->turn->gone)) {
        bool closed = sl_play_is_closed(p->scripted->play);
        sl_rpc_finish(p->call, closed ? SL_E_UNAVAILABLE : SL_E_CANCELLED,
                      closed ? "this node is shutting down" : "the request was aborted");
        end(p, closed ? "stopped" : "aborted");
    }
    while (p->turn && sl_play_send(p->scripted->play, p->turn, &send)) {
        sl_status status = perform(p, &send, &at_ns);
        if (status == SL_E_NOMEM)
            sl_rpc_finish(p->call, SL_E_EXHAUSTED, "out of memory for the reply; try again later");
        if (status != SL_OK)
            return; /* full: on_writable comes; over: on_done does */
        sl_turn_sent(p->turn, &send, at_ns);
        if (send.kind == SL_SEND_CLOSE || send.kind == SL_SEND_DROP)
            end(p, "done");
    }
}

static void on_wake(struct sl_turn *turn)
{
    struct performance *p = turn->user;
    sl_rpc_wake(p->call);
}

static void on_writable(struct sl_rpc_call *call, void *user)
{
    (void)call;
    go_on(user);
}

static void on_call_done(struct sl_rpc_call *call, void *user, bool cancelled)
{
    struct performance *p = user;
    (void)cancelled;
    if (p->turn)
        end(p, sl_play_is_closed(p->scripted->play) ? "stopped" : "left");
    sl_rpc_unref(call);
    free(p->ids);
    free(p);
}

static sl_status read_request(const struct sl_scripted *scripted, const generate_request *request,
                              uint32_t *prompt_tokens, uint32_t *max_tokens, struct sl_err *err)
{
    const Vllm__Grpc__Engine__SamplingParams *params = request->sampling_params;
    *max_tokens = params && params->_max_tokens_case ? params->max_tokens : scripted->default_tokens;
    if (*max_tokens < 1 || *max_tokens > SL_MAX_SCRIPTED_TOKENS)
        return sl_fail(err, SL_E_INVALID, "sampling_params.max_tokens is %u; 1 to %d are served", *max_tokens,
                       SL_MAX_SCRIPTED_TOKENS);
    if (params && params->n > 1)
        return sl_fail(err, SL_E_INVALID, "sampling_params.n is %u; one answer is served here", params->n);
    if (strlen(request->request_id) >= SL_SCRIPTED_ID_BYTES)
        return sl_fail(err, SL_E_INVALID, "request_id has %zu bytes; at most %d are accepted",
                       strlen(request->request_id), SL_SCRIPTED_ID_BYTES - 1);
    if (request->input_case == VLLM__GRPC__ENGINE__GENERATE_REQUEST__INPUT_TEXT)
        return sl_words_count(scripted->words, request->text, strlen(request->text), prompt_tokens, err);
    if (request->input_case != VLLM__GRPC__ENGINE__GENERATE_REQUEST__INPUT_TOKENIZED ||
        request->tokenized->n_input_ids == 0)
        return sl_fail(err, SL_E_INVALID, "the request has no prompt; send tokenized.input_ids or text");
    *prompt_tokens = (uint32_t)request->tokenized->n_input_ids;
    return SL_OK;
}

static sl_status take(struct performance *p, struct sl_turn *turn, struct sl_err *err)
{
    turn->user = p;
    turn->on_wake = on_wake;
    SL_TRY(sl_play_arrive(p->scripted->play, turn, err)); /* woken it is on this thread, later */
    p->turn = turn;
    return SL_OK;
}

static sl_status begin(struct sl_rpc_call *call, struct sl_scripted *scripted,
                       const generate_request *request, struct sl_err *err)
{
    uint32_t prompt_tokens, max_tokens;
    SL_TRY(read_request(scripted, request, &prompt_tokens, &max_tokens, err));
    struct performance *p = calloc(1, sizeof *p);
    struct sl_turn *turn = sl_scripted_turn(request->request_id, prompt_tokens, max_tokens);
    sl_status status = SL_OK;
    if (p && turn) {
        *p = (struct performance){.scripted = scripted, .call = call};
        turn->unary = !request->stream;
        status = take(p, turn, err);
    } else {
        status = sl_fail(err, SL_E_EXHAUSTED, "out of memory for this request; try again later");
    }
    if (status == SL_OK) {
        sl_rpc_ref(call);
        sl_rpc_hooks(call, p, on_call_done, on_writable);
        if (turn->fault == SL_FAULT_REFUSE) {
            sl_rpc_finish(call, SL_E_UNAVAILABLE, "refused, as the script has it");
            end(p, "refused");
        }
        return SL_OK;
    }
    if (turn)
        sl_turn_fini(turn);
    free(turn);
    free(p);
    return status;
}

static void on_generate(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    const struct sl_scripted_grpc *grpc = context;
    struct sl_pb pb = {0};
    struct sl_err err = {0};
    const generate_request *request = (const void *)sl_pb_unpack(
        &pb, call, &vllm__grpc__engine__generate_request__descriptor, message, bytes);
    if (!request)
        return;
    sl_status status = begin(call, grpc->scripted, request, &err);
    if (status != SL_OK)
        sl_rpc_finish(call, status, err.text);
    sl_pb_free(&pb);
}

/* ---- what gateways ask besides ---- */

static void on_health(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    Vllm__Grpc__Engine__HealthCheckResponse reply = VLLM__GRPC__ENGINE__HEALTH_CHECK_RESPONSE__INIT;
    (void)message, (void)bytes, (void)context;
    reply.healthy = true;
    reply.message = unconst("ok");
    sl_pb_reply(call, &reply.base);
}

static void on_abort(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    const struct sl_scripted_grpc *grpc = context;
    Vllm__Grpc__Engine__AbortResponse reply = VLLM__GRPC__ENGINE__ABORT_RESPONSE__INIT;
    struct sl_pb pb = {0};
    const Vllm__Grpc__Engine__AbortRequest *request =
        (const void *)sl_pb_unpack(&pb, call, &vllm__grpc__engine__abort_request__descriptor, message, bytes);
    if (!request)
        return;
    for (size_t i = 0; i < request->n_request_ids && i < MAX_ABORT_IDS; i++)
        sl_play_abort(grpc->scripted->play, request->request_ids[i]);
    if (request->n_request_ids > MAX_ABORT_IDS)
        sl_rpc_finish(call, SL_E_INVALID, "request_ids has more than 1024 ids; the first 1024 were aborted");
    else
        sl_pb_reply(call, &reply.base);
    sl_pb_free(&pb);
}

static void on_model_info(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    const struct sl_scripted *scripted = ((const struct sl_scripted_grpc *)context)->scripted;
    const struct sl_shape *shape = scripted->pack ? sl_pack_shape(scripted->pack) : NULL;
    Vllm__Grpc__Engine__GetModelInfoResponse reply = VLLM__GRPC__ENGINE__GET_MODEL_INFO_RESPONSE__INIT;
    char *architectures[] = {unconst(shape ? shape->architecture : "Scripted")};
    int32_t eos[SL_MAX_EOS];
    (void)message, (void)bytes;
    for (uint32_t i = 0; shape && i < shape->n_eos; i++)
        eos[i] = (int32_t)shape->eos[i];
    reply.model_path = unconst(scripted->pack ? sl_pack_path(scripted->pack) : scripted->model);
    reply.tokenizer_path = reply.model_path;
    reply.served_model_name = unconst(scripted->model);
    reply.is_generation = true;
    reply.max_context_length = SL_MAX_SCRIPTED_TOKENS;
    reply.max_req_input_len = SL_MAX_SCRIPTED_TOKENS - 1;
    reply.vocab_size = scripted->words->vocab;
    reply.model_type = unconst(shape ? shape->model_type : "scripted");
    reply.n_architectures = 1;
    reply.architectures = architectures;
    reply.n_eos_token_ids = shape ? shape->n_eos : 0;
    reply.eos_token_ids = eos;
    sl_pb_reply(call, &reply.base);
}

static void on_server_info(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    const struct sl_scripted_grpc *grpc = context;
    Vllm__Grpc__Engine__GetServerInfoResponse reply = VLLM__GRPC__ENGINE__GET_SERVER_INFO_RESPONSE__INIT;
    struct sl_play_load load;
    (void)message, (void)bytes;
    sl_play_load(grpc->scripted->play, &load);
    reply.active_requests = load.n_served + load.n_waiting;
    reply.uptime_seconds = (double)load.up_ns * 1e-9;
    reply.server_type = unconst("scripted"); /* who asks whether a server is ours must not take it for one */
    reply.data_parallel_size = 1;
    reply.max_num_seqs = SL_SCENE_TURNS;
    sl_pb_reply(call, &reply.base);
}

static void on_loads(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    const struct sl_scripted_grpc *grpc = context;
    Vllm__Grpc__Engine__GetLoadsResponse reply = VLLM__GRPC__ENGINE__GET_LOADS_RESPONSE__INIT;
    Vllm__Grpc__Engine__SchedulerLoad rank0 = VLLM__GRPC__ENGINE__SCHEDULER_LOAD__INIT, *loads[] = {&rank0};
    struct sl_play_load load;
    (void)message, (void)bytes;
    sl_play_load(grpc->scripted->play, &load);
    rank0.num_running_reqs = (int32_t)load.n_served;
    rank0.num_waiting_reqs = (int32_t)load.n_waiting;
    rank0.num_total_reqs = (int32_t)(load.n_served + load.n_waiting);
    rank0.max_running_requests = SL_SCENE_TURNS;
    reply.version = unconst(SLUICE_VERSION);
    reply.dp_rank_count = 1;
    reply.n_loads = 1;
    reply.loads = loads;
    sl_pb_reply(call, &reply.base);
}

static void on_no_tokenizer(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    (void)message, (void)bytes, (void)context;
    sl_rpc_finish(call, SL_E_UNIMPLEMENTED,
                  "there is no tokenizer here: start the scripted server with --model");
}

static sl_status read_of_pack(void *pack, const char *name, char **text, size_t *bytes, struct sl_err *err)
{
    return sl_pack_read(pack, name, text, bytes, err);
}

/* ---- life ---- */

static uint32_t list_methods(struct sl_scripted_grpc *grpc)
{
#define PATH(name) "/vllm.grpc.engine.VllmEngine/" name
    bool model = grpc->archive != NULL;
    const struct sl_rpc_method served[] = {
        {PATH("Generate"), true, on_generate, grpc, false, SL_RPC_WORK, SL_RPC_USERS},
        {PATH("HealthCheck"), false, on_health, grpc, false, SL_RPC_ADMIN, SL_RPC_USERS},
        {PATH("Abort"), false, on_abort, grpc, false, SL_RPC_ADMIN, SL_RPC_USERS},
        {PATH("GetModelInfo"), false, on_model_info, grpc, false, SL_RPC_ADMIN, SL_RPC_USERS},
        {PATH("GetServerInfo"), false, on_server_info, grpc, false, SL_RPC_ADMIN, SL_RPC_USERS},
        {PATH("GetLoads"), false, on_loads, grpc, false, SL_RPC_ADMIN, SL_RPC_USERS},
        {PATH("GetTokenizer"), true, model ? sl_archive_on_call : on_no_tokenizer, grpc->archive, false,
         SL_RPC_ADMIN, SL_RPC_USERS},
    };
#undef PATH
    uint32_t n = sizeof served / sizeof *served;
    memcpy(grpc->methods, served, sizeof served);
    return n + sl_health_methods(grpc->health, grpc->methods + n);
}

sl_status sl_scripted_grpc_start(struct sl_scripted_grpc **out, struct sl_scripted *scripted,
                                 const char *listen, struct sl_err *err)
{
    struct sl_scripted_grpc *grpc = calloc(1, sizeof *grpc);
    if (!grpc)
        return sl_fail(err, SL_E_NOMEM, "out of memory for gRPC on %s", listen);
    grpc->scripted = scripted;
    grpc->health = sl_health_create();
    if (scripted->pack)
        grpc->archive = sl_archive_create(read_of_pack, (void *)(uintptr_t)scripted->pack);
    const struct sl_rpc_server_config config = {.listen = listen,
                                                .n_workers = WORKERS,
                                                .max_message_bytes = SL_SCRIPTED_MESSAGE_BYTES,
                                                .max_metadata_bytes = 8 << 10};
    sl_status status = SL_OK;
    if (!grpc->health || (scripted->pack && !grpc->archive))
        status = sl_fail(err, SL_E_NOMEM, "out of memory for gRPC on %s", listen);
    if (status == SL_OK) {
        sl_health_set(grpc->health, "", true);
        sl_health_set(grpc->health, "vllm.grpc.engine.VllmEngine", true);
        status = sl_rpc_server_start(&grpc->server, &config, grpc->methods, list_methods(grpc), err);
    }
    if (status != SL_OK) {
        sl_scripted_grpc_stop(grpc);
        return status;
    }
    *out = grpc;
    return SL_OK;
}

int sl_scripted_grpc_port(const struct sl_scripted_grpc *grpc)
{
    return sl_rpc_server_port(grpc->server);
}

void sl_scripted_grpc_stop(struct sl_scripted_grpc *grpc)
{
    if (!grpc)
        return;
    if (grpc->server) {
        sl_health_end(grpc->health);
        sl_rpc_server_stop(grpc->server, 0);
    }
    sl_health_destroy(grpc->health);
    sl_archive_destroy(grpc->archive);
    free(grpc);
}
