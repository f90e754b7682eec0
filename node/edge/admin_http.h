/* Ops HTTP: /metrics /livez /readyz /startupz /version, for probes and scrapers. Every role has
 * one; a coordinator's has /debug/schedule, /debug/records and /debug/flush_prefix_cache, too, for who is on its machine. */
#ifndef SL_NODE_EDGE_ADMIN_HTTP_H
#define SL_NODE_EDGE_ADMIN_HTTP_H

#include "base/status.h"
#include "base/text.h"

struct sl_admin_state {
    bool started;        /* it has been ready once */
    bool ready;          /* it takes work now */
    const char *reason;  /* why not ready: a static sentence without newline, or NULL */
    const char *profile; /* the numerics that the pipeline runs; NULL: not decided */
};
struct sl_admin_config {
    const char *listen;                                         /* "127.0.0.1:8081", port 0: any */
    void (*state)(void *context, struct sl_admin_state *state); /* both on the HTTP thread */
    void (*metrics)(void *context, struct sl_text *text);       /* OpenMetrics lines, without the end mark */
    /* JSON of /debug/schedule, on the HTTP thread; false: there is none now. NULL: there is no such page */
    bool (*schedule)(void *context, struct sl_text *text);
    /* the same of /debug/records, a line of JSON each */
    bool (*records)(void *context, struct sl_text *text);
    /* POST /debug/flush_prefix_cache; false: there is no cache. NULL: there is no such page */
    bool (*flush)(void *context);
    void *context;
};

struct sl_admin;
sl_status sl_admin_start(struct sl_admin **ops, const struct sl_admin_config *config, struct sl_err *err);
int sl_admin_port(const struct sl_admin *ops);
void sl_admin_stop(struct sl_admin *ops); /* NULL is fine; blocks until no callback can come */

/* build_info, process_* and jemalloc's statistics; sl_admin adds them to /metrics itself. */
void sl_process_metrics(struct sl_text *text);

#endif
