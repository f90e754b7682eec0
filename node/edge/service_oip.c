/* inference.GRPCInferenceService: liveness, readiness and metadata of the Open Inference Protocol
 * v2, for platforms (KServe, Triton clients) that watch every model server the same way. Generation
 * is VllmEngine's business: the protocol has tensors in and tensors out and no stream, so
 * ModelInfer points there. */
#include "model/shape.h"
#include "node/edge/edge.h"
#include "node/rpc/pb_impl.h"
#include "open_inference.pb-c.h"
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

static bool is_ready(struct sl_edge_view *view)
{
    struct sl_load load;
    sl_coordinator_load(view->coordinator, &load);
    return load.life == SL_LIFE_READY && !load.silent && !atomic_load(&view->shut_because);
}

/* A pointer that a generated struct wants without const; packing only reads it. */
static char *unconst(const char *text)
{
    return (char *)(uintptr_t)text;
}

static void on_server_live(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    Inference__ServerLiveResponse reply = INFERENCE__SERVER_LIVE_RESPONSE__INIT;
    (void)message, (void)bytes, (void)context;
    reply.live = true;
    sl_pb_reply(call, &reply.base);
}

static void on_server_ready(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    Inference__ServerReadyResponse reply = INFERENCE__SERVER_READY_RESPONSE__INIT;
    (void)message, (void)bytes;
    reply.ready = is_ready(context);
    sl_pb_reply(call, &reply.base);
}

/* True when the name is our model's; otherwise the call is finished with NOT_FOUND. */
static bool is_our_model(struct sl_rpc_call *call, const struct sl_edge_view *view, const char *name)
{
    const char *ours = sl_coordinator_model_name(view->coordinator);
    if (strcmp(name, ours) == 0)
        return true;
    char sentence[320];
    snprintf(sentence, sizeof sentence, "there is no model \"%.100s\" here; this node serves \"%.100s\"",
             name, ours);
    sl_rpc_finish(call, SL_E_NOT_FOUND, sentence);
    return false;
}

static void on_model_ready(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_pb pb = {0};
    const Inference__ModelReadyRequest *request =
        (const void *)sl_pb_unpack(&pb, call, &inference__model_ready_request__descriptor, message, bytes);
    if (request && is_our_model(call, context, request->name)) {
        Inference__ModelReadyResponse reply = INFERENCE__MODEL_READY_RESPONSE__INIT;
        reply.ready = is_ready(context);
        sl_pb_reply(call, &reply.base);
    }
    sl_pb_free(&pb);
}

static void on_server_metadata(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    Inference__ServerMetadataResponse reply = INFERENCE__SERVER_METADATA_RESPONSE__INIT;
    (void)message, (void)bytes, (void)context;
    reply.name = unconst("sluice");
    reply.version = unconst(SLUICE_VERSION);
    sl_pb_reply(call, &reply.base);
}

static void on_model_metadata(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    typedef Inference__ModelMetadataResponse__TensorMetadata tensor;
    struct sl_pb pb = {0};
    const Inference__ModelMetadataRequest *request =
        (const void *)sl_pb_unpack(&pb, call, &inference__model_metadata_request__descriptor, message, bytes);
    if (request && is_our_model(call, context, request->name)) {
        Inference__ModelMetadataResponse reply = INFERENCE__MODEL_METADATA_RESPONSE__INIT;
        tensor input = INFERENCE__MODEL_METADATA_RESPONSE__TENSOR_METADATA__INIT, output = input;
        tensor *inputs[] = {&input}, *outputs[] = {&output};
        int64_t any_length = -1;
        char *versions[] = {unconst("1")};
        input.name = unconst("input_ids");
        output.name = unconst("output_ids");
        input.datatype = output.datatype = unconst("UINT32");
        input.n_shape = output.n_shape = 1;
        input.shape = output.shape = &any_length;
        reply.name = request->name;
        reply.n_versions = 1;
        reply.versions = versions;
        reply.platform = unconst("sluice");
        reply.n_inputs = reply.n_outputs = 1;
        reply.inputs = inputs;
        reply.outputs = outputs;
        sl_pb_reply(call, &reply.base);
    }
    sl_pb_free(&pb);
}

static void on_model_infer(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    (void)message, (void)bytes, (void)context;
    sl_rpc_finish(call, SL_E_UNIMPLEMENTED,
                  "ModelInfer is not served: generate with vllm.grpc.engine.VllmEngine/Generate");
}

uint32_t sl_oip_methods(struct sl_edge_view *view, struct sl_rpc_method *methods)
{
    static const struct sl_rpc_method served[] = {
        {.path = "/inference.GRPCInferenceService/ServerLive", .on_message = on_server_live},
        {.path = "/inference.GRPCInferenceService/ServerReady", .on_message = on_server_ready},
        {.path = "/inference.GRPCInferenceService/ModelReady", .on_message = on_model_ready},
        {.path = "/inference.GRPCInferenceService/ServerMetadata", .on_message = on_server_metadata},
        {.path = "/inference.GRPCInferenceService/ModelMetadata", .on_message = on_model_metadata},
        {.path = "/inference.GRPCInferenceService/ModelInfer", .on_message = on_model_infer},
    };
    const uint32_t n = sizeof served / sizeof *served;
    for (uint32_t i = 0; i < n; i++) {
        methods[i] = served[i];
        methods[i].context = view;
        methods[i].place = SL_RPC_ADMIN;
        methods[i].roles = SL_RPC_USERS;
    }
    return n;
}
