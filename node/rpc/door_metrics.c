/* What the door says about itself: whether it takes connections, and its lines in /metrics. */
#include "base/metric.h"
#include "node/rpc/door_impl.h"

const char *sl_door_shut_because(const struct sl_door *door)
{
    if (door->draining)
        return "this node is draining";
    if (door->resting)
        return "no descriptor or memory is left for a gRPC connection";
    if (!sl_door_has_place(door))
        return "all places for gRPC connections are taken";
    return NULL;
}

static void value(struct sl_text *text, const char *kind, const char *name, const char *help, uint64_t v)
{
    sl_metric_head(text, kind, name, help);
    sl_text_add(text, "%s%s %llu\n", name, kind[0] == 'c' ? "_total" : "", (unsigned long long)v);
}

static void labelled(struct sl_text *text, const char *name, const char *label, const char *which, uint64_t v)
{
    sl_text_add(text, "%s{%s=\"%s\"} %llu\n", name, label, which, (unsigned long long)v);
}

static void connection_metrics(struct sl_door *door, struct sl_text *text)
{
    value(text, "gauge", "sluice_grpc_connections", "gRPC connections that are open.", door->n);
    value(text, "gauge", "sluice_grpc_connections_calling", "gRPC connections that have made a call.",
          door->n_live);
    value(text, "gauge", "sluice_grpc_connections_limit", "The most gRPC connections that are taken.",
          door->most);
    value(text, "counter", "sluice_grpc_connections_accepted", "gRPC connections taken.", door->n_accepted);
    sl_metric_head(text, "counter", "sluice_grpc_connections_refused",
                   "gRPC connections closed at once, by what was lacking: places, descriptors, memory.");
    labelled(text, "sluice_grpc_connections_refused_total", "lack", "places", door->n_full);
    labelled(text, "sluice_grpc_connections_refused_total", "lack", "descriptors", door->n_shut);
    labelled(text, "sluice_grpc_connections_refused_total", "lack", "memory", door->n_exhausted);
    sl_metric_head(text, "counter", "sluice_grpc_connections_shut",
                   "gRPC connections that this node ended, by reason.");
    for (unsigned why = 1; why < SL_DOOR_WHYS; why++)
        labelled(text, "sluice_grpc_connections_shut_total", "reason",
                 why < SL_FRAMES_ENDS ? sl_frames_ends[why] : sl_door_whys[why], door->n_closed[why]);
}

static void message_metrics(struct sl_door *door, struct sl_text *text)
{
    static const uint32_t pool_bytes[SL_DOOR_POOLS] = SL_DOOR_POOL_BYTES;
    static const char *const pools[SL_DOOR_POOLS] = {"prompts", "large"};
    sl_metric_head(text, "gauge", "sluice_grpc_message_room_bytes",
                   "Room that messages on their way in have, by size.");
    for (int i = 0; i < SL_DOOR_POOLS; i++)
        labelled(text, "sluice_grpc_message_room_bytes", "pool", pools[i], door->reserved[i]);
    sl_metric_head(text, "gauge", "sluice_grpc_message_room_limit_bytes",
                   "The most room that messages on their way in have, by size.");
    for (int i = 0; i < SL_DOOR_POOLS; i++)
        labelled(text, "sluice_grpc_message_room_limit_bytes", "pool", pools[i], pool_bytes[i]);
    value(text, "gauge", "sluice_grpc_messages_waiting", "Messages that wait for room.",
          door->n_waiting[0] + door->n_waiting[1]);
    value(text, "gauge", "sluice_grpc_messages_unfinished", "Calls whose message is not here whole.",
          door->n_unfinished);
    sl_metric_head(text, "counter", "sluice_grpc_messages_refused",
                   "Messages that were not received, by reason.");
    labelled(text, "sluice_grpc_messages_refused_total", "reason", "late", door->n_messages_late);
    labelled(text, "sluice_grpc_messages_refused_total", "reason", "long", door->n_messages_long);
    labelled(text, "sluice_grpc_messages_refused_total", "reason", "busy", door->n_messages_busy);
    sl_metric_head(text, "counter", "sluice_grpc_calls_ended", "gRPC calls that this node ended, by reason.");
    labelled(text, "sluice_grpc_calls_ended_total", "reason", "unread", door->n_unread);
}

static void tls_metrics(struct sl_door *door, struct sl_text *text)
{
    value(text, "gauge", "sluice_tls_handshakes", "TLS handshakes that have begun.", door->begun.n);
    value(text, "counter", "sluice_tls_handshakes_done", "TLS handshakes that came to a good end.",
          door->n_shakes_done);
    sl_tls_metrics(door->tls, text);
}

void sl_door_metrics(struct sl_door *door, struct sl_text *text)
{
    pthread_mutex_lock(&door->lock);
    connection_metrics(door, text);
    message_metrics(door, text);
    if (door->tls)
        tls_metrics(door, text);
    pthread_mutex_unlock(&door->lock);
}
