/* VllmEngine.SubscribeKvEvents: what the prefix cache holds, event by event, for gateways that send a prompt where its beginning
 * was computed. */
#ifndef SL_NODE_EDGE_KV_EVENTS_H
#define SL_NODE_EDGE_KV_EVENTS_H

#include "node/coordinator/coordinator.h"
#include "node/rpc/rpc.h"

struct sl_kv_watches; /* those that are open */
struct sl_kv_watches *sl_kv_watches_create(struct sl_coordinator *coordinator);
void sl_kv_watches_destroy(struct sl_kv_watches *watches); /* after the server's stop; NULL is fine */
/* They are endless, so they are ended, and later ones at once: before the server's stop. */
void sl_kv_watches_end(struct sl_kv_watches *watches);
/* The handler; context: the watches. */
void sl_kv_watches_on_call(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context);

#endif
