/* A subscription is a follower of the coordinator (coordinator.h) whose events become messages on the call's worker, one each. Two
 * let go of it: the worker with the call's end, and then the coordinator, after which nobody wakes the call any more. */
#include "node/edge/kv_events.h"
#include "node/rpc/pb_impl.h"
#include "smg_common.pb-c.h"
#include <pthread.h>
#include <stdlib.h>

struct kv_watch {
    struct sl_kv_watches *watches;
    struct sl_rpc_call *call;
    struct sl_follower *follower;
    uint32_t n_written; /* of what it was brought */
    struct kv_watch *next, *before;
};

struct sl_kv_watches {
    struct sl_coordinator *coordinator;
    pthread_mutex_t lock; /* of the list, between workers and who stops */
    struct kv_watch *first;
    bool ended;
};

struct sl_kv_watches *sl_kv_watches_create(struct sl_coordinator *coordinator)
{
    struct sl_kv_watches *watches = calloc(1, sizeof *watches);
    if (!watches)
        return NULL;
    watches->coordinator = coordinator;
    pthread_mutex_init(&watches->lock, NULL);
    return watches;
}

void sl_kv_watches_destroy(struct sl_kv_watches *watches)
{
    if (!watches)
        return;
    pthread_mutex_destroy(&watches->lock);
    free(watches);
}

void sl_kv_watches_end(struct sl_kv_watches *watches)
{
    pthread_mutex_lock(&watches->lock);
    watches->ended = true;
    for (struct kv_watch *w = watches->first; w; w = w->next)
        sl_rpc_finish(w->call, SL_E_UNAVAILABLE, "this node is shutting down");
    pthread_mutex_unlock(&watches->lock);
}

/* ---- messages ---- */

static sl_status write_event(struct sl_rpc_call *call, const struct sl_kv_event *e)
{
    Smg__Grpc__Common__KvEventBatch batch = SMG__GRPC__COMMON__KV_EVENT_BATCH__INIT;
    Smg__Grpc__Common__KvCacheEvent event = SMG__GRPC__COMMON__KV_CACHE_EVENT__INIT, *events[] = {&event};
    Smg__Grpc__Common__KvBlocksStored stored = SMG__GRPC__COMMON__KV_BLOCKS_STORED__INIT;
    Smg__Grpc__Common__KvBlocksRemoved removed = SMG__GRPC__COMMON__KV_BLOCKS_REMOVED__INIT;
    Smg__Grpc__Common__KvCacheCleared cleared = SMG__GRPC__COMMON__KV_CACHE_CLEARED__INIT;
    Smg__Grpc__Common__KvBlock block = SMG__GRPC__COMMON__KV_BLOCK__INIT, *blocks[] = {&block};
    int64_t name = (int64_t)e->event.name;
    batch.sequence_number = event.event_id = e->number;
    batch.timestamp = e->at_s;
    batch.n_events = 1;
    batch.events = events;
    switch (e->event.kind) {
    case SL_PREFIX_STORED:
        event.data_case = SMG__GRPC__COMMON__KV_CACHE_EVENT__DATA_STORED;
        event.stored = &stored;
        stored.n_blocks = 1;
        stored.blocks = blocks;
        block.block_hash = name;
        block.n_token_ids = SL_PAGE;
        block.token_ids = (uint32_t *)(uintptr_t)e->event.ids; /* packing only reads it */
        block.block_size = SL_PAGE;
        if (e->event.has_parent) {
            stored._parent_block_hash_case =
                SMG__GRPC__COMMON__KV_BLOCKS_STORED___PARENT_BLOCK_HASH_PARENT_BLOCK_HASH;
            stored.parent_block_hash = (int64_t)e->event.parent;
        }
        break;
    case SL_PREFIX_REMOVED:
        event.data_case = SMG__GRPC__COMMON__KV_CACHE_EVENT__DATA_REMOVED;
        event.removed = &removed;
        removed.n_block_hashes = 1;
        removed.block_hashes = &name;
        break;
    case SL_PREFIX_CLEARED:
        event.data_case = SMG__GRPC__COMMON__KV_CACHE_EVENT__DATA_CLEARED;
        event.cleared = &cleared;
        break;
    }
    return sl_pb_write(call, &batch.base);
}

/* As far as the call's queue goes; when it has gone down, on_writable comes. */
static void write_events(struct kv_watch *w)
{
    const struct sl_kv_event *events;
    uint32_t n = sl_follower_events(w->follower, &events);
    for (; w->n_written < n; w->n_written++) {
        sl_status status = write_event(w->call, &events[w->n_written]);
        if (status == SL_E_NOMEM)
            sl_rpc_finish(w->call, SL_E_EXHAUSTED, "out of memory for the events; subscribe again later");
        if (status != SL_OK)
            return;
    }
    if (n == 0)
        return;
    w->n_written = 0;
    sl_follower_taken(w->follower);
}

/* ---- life ---- */

static void on_events(void *user)
{
    struct kv_watch *w = user;
    sl_rpc_wake(w->call);
}

static void on_gone(void *user)
{
    struct kv_watch *w = user;
    sl_rpc_unref(w->call);
    free(w);
}

static void on_writable(struct sl_rpc_call *call, void *user)
{
    (void)call;
    write_events(user);
}

static void on_done(struct sl_rpc_call *call, void *user, bool cancelled)
{
    struct kv_watch *w = user;
    (void)call, (void)cancelled;
    pthread_mutex_lock(&w->watches->lock);
    *(w->before ? &w->before->next : &w->watches->first) = w->next;
    if (w->next)
        w->next->before = w->before;
    pthread_mutex_unlock(&w->watches->lock);
    sl_follower_end(w->follower);
}

static void begin(struct sl_kv_watches *watches, struct sl_rpc_call *call, uint64_t start)
{
    struct kv_watch *w = calloc(1, sizeof *w);
    if (w) {
        *w = (struct kv_watch){.watches = watches, .call = call};
        sl_rpc_ref(call);
        w->follower = sl_coordinator_follow(watches->coordinator, start, on_events, on_gone, w);
    }
    if (!w || !w->follower) {
        if (w)
            on_gone(w);
        sl_rpc_finish(call, SL_E_EXHAUSTED, "out of memory for a subscription; try again later");
        return;
    }
    sl_rpc_hooks(call, w, on_done, on_writable);
    pthread_mutex_lock(&watches->lock);
    w->next = watches->first;
    if (w->next)
        w->next->before = w;
    watches->first = w;
    if (watches->ended)
        sl_rpc_finish(call, SL_E_UNAVAILABLE, "this node is shutting down");
    pthread_mutex_unlock(&watches->lock);
}

void sl_kv_watches_on_call(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_kv_watches *watches = context;
    struct sl_pb pb = {0};
    const Smg__Grpc__Common__SubscribeKvEventsRequest *request = (const void *)sl_pb_unpack(
        &pb, call, &smg__grpc__common__subscribe_kv_events_request__descriptor, message, bytes);
    if (!request)
        return;
    uint64_t start = request->start_sequence_number;
    sl_pb_free(&pb);
    if (sl_coordinator_has_prefixes(watches->coordinator))
        begin(watches, call, start);
    else
        sl_rpc_finish(call, SL_E_UNIMPLEMENTED,
                      "SubscribeKvEvents is not served: --prefix-cache is off, there is nothing to follow");
}
