/* grpc.health.v1: Check answers at once, Watch streams every change until its client leaves or we
 * stop.
 *
 * "" is the node as a whole. Check of an unknown name is NOT_FOUND, Watch of one says
 * SERVICE_UNKNOWN and goes on: it may become known. Watches are endless, so they are ended before
 * the server's stop, which would otherwise wait for them through its whole grace. */
#include "grpc/health/v1/health.pb-c.h"
#include "node/edge/edge.h"
#include "node/rpc/pb_impl.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SERVICES = 8, MAX_NAME = 128 };
typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus serving_status;
#define STATUS(name) GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__##name

struct watch {
    struct sl_health *health;
    struct sl_rpc_call *call;
    char service[MAX_NAME];
    serving_status sent;
    bool has_sent;
    struct watch *next, *before;
};

struct sl_health {
    struct {
        const char *name;
        _Atomic serving_status status; /* a Check reads it without the lock, so that it waits for no Watch */
    } services[MAX_SERVICES];
    uint32_t n_services;  /* since before there were workers */
    pthread_mutex_t lock; /* between workers and whoever sets a state: watches */
    struct watch *watches;
    bool ended;
};

struct sl_health *sl_health_create(void)
{
    struct sl_health *health = calloc(1, sizeof *health);
    if (health)
        pthread_mutex_init(&health->lock, NULL);
    return health;
}

void sl_health_destroy(struct sl_health *health)
{
    if (!health)
        return;
    pthread_mutex_destroy(&health->lock);
    free(health);
}

static serving_status look_up(const struct sl_health *health, const char *service)
{
    for (uint32_t i = 0; i < health->n_services; i++)
        if (strcmp(health->services[i].name, service) == 0)
            return health->services[i].status;
    return STATUS(SERVICE_UNKNOWN);
}

/* With the lock: says the present state unless the client knows it. A full queue is no loss:
 * on_writable comes, and what counts is the state then. */
static void tell(struct watch *watch)
{
    serving_status now = look_up(watch->health, watch->service);
    if (watch->has_sent && watch->sent == now)
        return;
    Grpc__Health__V1__HealthCheckResponse reply = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    reply.status = now;
    if (sl_pb_write(watch->call, &reply.base) == SL_OK) {
        watch->sent = now;
        watch->has_sent = true;
    }
}

static void on_check(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_health *health = context;
    struct sl_pb pb = {0};
    const Grpc__Health__V1__HealthCheckRequest *request = (const void *)sl_pb_unpack(
        &pb, call, &grpc__health__v1__health_check_request__descriptor, message, bytes);
    if (!request)
        return;
    Grpc__Health__V1__HealthCheckResponse reply = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    reply.status = look_up(health, request->service);
    if (reply.status == STATUS(SERVICE_UNKNOWN)) {
        char sentence[200];
        snprintf(sentence, sizeof sentence,
                 "there is no service \"%.100s\" here; \"\" asks for the whole node", request->service);
        sl_rpc_finish(call, SL_E_NOT_FOUND, sentence);
    } else {
        sl_pb_reply(call, &reply.base);
    }
    sl_pb_free(&pb);
}

static void on_watch_done(struct sl_rpc_call *call, void *user, bool cancelled)
{
    struct watch *watch = user;
    struct sl_health *health = watch->health;
    (void)cancelled;
    pthread_mutex_lock(&health->lock);
    if (watch->before)
        watch->before->next = watch->next;
    else
        health->watches = watch->next;
    if (watch->next)
        watch->next->before = watch->before;
    pthread_mutex_unlock(&health->lock);
    free(watch);
    sl_rpc_unref(call);
}

static void on_watch_writable(struct sl_rpc_call *call, void *user)
{
    struct watch *watch = user;
    (void)call;
    pthread_mutex_lock(&watch->health->lock);
    tell(watch);
    pthread_mutex_unlock(&watch->health->lock);
}

static void on_watch(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_health *health = context;
    struct sl_pb pb = {0};
    const Grpc__Health__V1__HealthCheckRequest *request = (const void *)sl_pb_unpack(
        &pb, call, &grpc__health__v1__health_check_request__descriptor, message, bytes);
    if (!request)
        return;
    struct watch *watch = NULL;
    if (strlen(request->service) >= MAX_NAME)
        sl_rpc_finish(call, SL_E_INVALID, "service is longer than 127 bytes; no service here is");
    else if (!(watch = calloc(1, sizeof *watch)))
        sl_rpc_finish(call, SL_E_EXHAUSTED, "out of memory for a watch; try again later");
    if (watch) {
        strcpy(watch->service, request->service);
        watch->health = health;
        watch->call = call;
        sl_rpc_ref(call);
        sl_rpc_hooks(call, watch, on_watch_done, on_watch_writable);
        pthread_mutex_lock(&health->lock);
        watch->next = health->watches;
        if (watch->next)
            watch->next->before = watch;
        health->watches = watch;
        tell(watch);
        if (health->ended)
            sl_rpc_finish(call, SL_E_UNAVAILABLE, "this node is shutting down");
        pthread_mutex_unlock(&health->lock);
    }
    sl_pb_free(&pb);
}

void sl_health_set(struct sl_health *health, const char *service, bool serving)
{
    uint32_t i = 0;
    while (i < health->n_services && strcmp(health->services[i].name, service) != 0)
        i++;
    if (i < MAX_SERVICES) {
        atomic_store(&health->services[i].status, serving ? STATUS(SERVING) : STATUS(NOT_SERVING));
        if (i == health->n_services) {
            health->services[i].name = service;
            health->n_services++;
        }
    }
    pthread_mutex_lock(&health->lock);
    for (struct watch *watch = health->watches; watch; watch = watch->next)
        tell(watch);
    pthread_mutex_unlock(&health->lock);
}

void sl_health_end(struct sl_health *health)
{
    pthread_mutex_lock(&health->lock);
    health->ended = true;
    for (struct watch *watch = health->watches; watch; watch = watch->next)
        sl_rpc_finish(watch->call, SL_E_UNAVAILABLE, "this node is shutting down");
    pthread_mutex_unlock(&health->lock);
}

uint32_t sl_health_methods(struct sl_health *health, struct sl_rpc_method *methods)
{
    methods[0] = (struct sl_rpc_method){.path = "/grpc.health.v1.Health/Check",
                                        .on_message = on_check,
                                        .context = health,
                                        .place = SL_RPC_ADMIN,
                                        .roles = SL_RPC_ALL};
    methods[1] = (struct sl_rpc_method){.path = "/grpc.health.v1.Health/Watch",
                                        .streaming = true,
                                        .on_message = on_watch,
                                        .context = health,
                                        .place = SL_RPC_WATCH,
                                        .roles = SL_RPC_ALL};
    return 2;
}
