/* What the files of the VllmEngine service share: the engine, and the step from its request to
 * ours.
 *
 * service_engine.c: registration, info, loads, tokenizer, abort. engine_request.c: a
 * GenerateRequest becomes an sl_generate or a sentence that names the field, and how a call is refused.
 * engine_generate.c: the stream back. */
#ifndef SL_NODE_EDGE_ENGINE_IMPL_H
#define SL_NODE_EDGE_ENGINE_IMPL_H

#include "node/coordinator/coordinator.h"
#include "node/edge/edge.h"
#include "node/rpc/pb_impl.h"
#include "node/rpc/rpc.h"
#include "vllm_engine.pb-c.h"

enum { SL_PUSHBACK_MS = 1000 }; /* when to try again after "full" or "not ready", if nobody knows better */

struct sl_engine {
    struct sl_coordinator *coordinator;
    const struct sl_edge_view *view;
    struct sl_archive *archive;
    struct sl_kv_watches *kv_watches;
};

struct sl_engine_request {
    struct sl_generate generate; /* its strings lie in the message, its bias below: it does not move */
    struct sl_bias bias[SL_MAX_LOGIT_BIAS];
    bool stream;
    uint32_t *owned_ids; /* of a text, malloc'ed */
};
/* raw: the bytes that message was unpacked from; strings with an embedded NUL are found there.
 * Frees nothing on failure: call fini in any case (zero before use). */
sl_status sl_engine_request_read(struct sl_engine_request *request, struct sl_coordinator *coordinator,
                                 const Vllm__Grpc__Engine__GenerateRequest *message, struct sl_pb_span raw,
                                 struct sl_err *err);
void sl_engine_request_fini(struct sl_engine_request *request);

/* The handler of Generate; context: the sl_engine. */
void sl_engine_on_generate(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context);

/* Ends a call with an error, with the pushback that its status deserves; retry_after_ms: as the decider has it, 0: it has none. */
void sl_engine_refuse(struct sl_rpc_call *call, sl_status status, const char *sentence,
                      uint32_t retry_after_ms);

#endif
