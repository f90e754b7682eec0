/* Who may call what: the table, method by method, of every service that is served. It is compared with the tables of the services
 * themselves, so a method that is new has to be thought about here. */
#include "tests/check.h"

#include "node/coordinator/members.h"
#include "node/edge/engine_impl.h"
#include "node/rpc/rpc.h"
#include <string.h>

/* c: client, g: gateway, n: node, a: admin */
static const struct {
    const char *path, *roles;
} rows[] = {
    {"/vllm.grpc.engine.VllmEngine/Generate", "cga"},
    {"/vllm.grpc.engine.VllmEngine/Embed", "cga"},
    {"/vllm.grpc.engine.VllmEngine/HealthCheck", "cga"},
    {"/vllm.grpc.engine.VllmEngine/Abort", "cga"}, /* of what they began; an admin of anything */
    {"/vllm.grpc.engine.VllmEngine/GetModelInfo", "cga"},
    {"/vllm.grpc.engine.VllmEngine/GetServerInfo", "cga"},
    {"/vllm.grpc.engine.VllmEngine/GetLoads", "cga"},
    {"/vllm.grpc.engine.VllmEngine/GetTokenizer", "cga"},
    {"/vllm.grpc.engine.VllmEngine/SubscribeKvEvents", "ga"}, /* they tell of everybody's prompts */
    {"/vllm.grpc.engine.VllmEngine/FlushCache", "a"},
    {"/vllm.grpc.engine.VllmEngine/StartProfile", "a"},
    {"/vllm.grpc.engine.VllmEngine/StopProfile", "a"},
    {"/grpc.health.v1.Health/Check", "cgna"},
    {"/grpc.health.v1.Health/Watch", "cgna"},
    {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "cgna"},
    {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "cgna"},
    {"/inference.GRPCInferenceService/ServerLive", "cga"},
    {"/inference.GRPCInferenceService/ServerReady", "cga"},
    {"/inference.GRPCInferenceService/ServerMetadata", "cga"},
    {"/inference.GRPCInferenceService/ModelReady", "cga"},
    {"/inference.GRPCInferenceService/ModelMetadata", "cga"},
    {"/inference.GRPCInferenceService/ModelInfer", "cga"},
    {"/sluice.v1.Control/Hello", "n"},
    {"/sluice.v1.Control/Join", "n"},
    {"/sluice.v1.Control/Ready", "n"},
    {"/sluice.v1.Control/Leave", "n"},
    {"/sluice.v1.Control/Silence", "n"},
    {"/sluice.v1.Control/Status", "na"},
};
enum { N_ROWS = sizeof rows / sizeof *rows };

static uint32_t bits_of(const char *roles)
{
    uint32_t bits = 0;
    for (; *roles; roles++)
        bits |= *roles == 'c'   ? SL_RPC_CLIENT
                : *roles == 'g' ? SL_RPC_GATEWAY
                : *roles == 'n' ? SL_RPC_NODE
                                : SL_RPC_ADMINISTRATOR;
    return bits;
}

static uint32_t all_methods(struct sl_rpc_method *methods)
{
    struct sl_engine engine = {0};
    uint32_t n = sl_engine_methods(&engine, methods);
    n += sl_health_methods(NULL, methods + n);
    n += sl_reflection_methods(methods + n);
    n += sl_oip_methods(NULL, methods + n);
    return n + sl_members_methods(NULL, methods + n);
}

SL_TEST(every_method_that_is_served_is_in_the_table_with_those_who_may_call_it)
{
    struct sl_rpc_method methods[SL_EDGE_METHODS + SL_MEMBERS_METHODS];
    uint32_t n = all_methods(methods);
    for (uint32_t i = 0; i < n; i++) {
        const char *roles = NULL;
        for (int r = 0; r < N_ROWS; r++)
            if (strcmp(rows[r].path, methods[i].path) == 0)
                roles = rows[r].roles;
        if (!roles)
            sl_test_fail(__FILE__, __LINE__, "%s has no row: who may call it?", methods[i].path);
        else if (bits_of(roles) != methods[i].roles)
            sl_test_fail(__FILE__, __LINE__, "%s may be called by %#x, and not by \"%s\"", methods[i].path,
                         methods[i].roles, roles);
    }
    CHECK_INT(n, N_ROWS);
}

SL_TEST(no_node_generates_and_nobody_else_joins)
{
    for (int r = 0; r < N_ROWS; r++) {
        bool control = strncmp(rows[r].path, "/sluice.v1.Control/", 19) == 0;
        bool engine = strncmp(rows[r].path, "/vllm.", 6) == 0;
        CHECK(!control || (bits_of(rows[r].roles) & (SL_RPC_CLIENT | SL_RPC_GATEWAY)) == 0);
        CHECK(!engine || (bits_of(rows[r].roles) & SL_RPC_NODE) == 0);
    }
}
