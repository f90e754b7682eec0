/* Traces to an OpenTelemetry collector, over HTTP: a thread of its own takes what ended, a few at a time, and posts it. A collector
 * that is slow or dead costs spans, which are counted, and no request anything. */
#ifndef SL_NODE_EDGE_TRACES_H
#define SL_NODE_EDGE_TRACES_H

#include "base/status.h"
#include "base/text.h"
#include "node/edge/otlp.h"

struct sl_traces;
/* url: http(s)://HOST:PORT is that of a collector (/v1/traces is added); with a path it is taken as it is. What it is given is copied.
 * SL_E_UNAVAILABLE: there is no libcurl; SL_E_USAGE: it is no URL. */
sl_status sl_traces_start(struct sl_traces **traces, const char *url, const char *instance, const char *model,
                          struct sl_err *err);
/* Waits for one last post, 2 s at most; nobody may add any more. NULL is fine. */
void sl_traces_stop(struct sl_traces *traces);
/* A malloc'ed request, which is the thread's from here on. Any thread; does not wait for the network, and when too much waits for
 * it already, this one is lost. */
void sl_traces_add(struct sl_traces *traces, struct sl_otlp_request *request);
void sl_traces_lost(struct sl_traces *traces, uint32_t n_spans);        /* there was no memory for them */
void sl_traces_ids(struct sl_traces *traces, uint8_t *bytes, size_t n); /* random ones; any thread */
void sl_traces_metrics(struct sl_traces *traces, struct sl_text *text);

#endif
