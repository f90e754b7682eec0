/* Requests as OpenTelemetry spans: bytes of an ExportTraceServiceRequest, as collectors take them over HTTP. Pure.
 *
 *   generate                 from submission to the end; its parent is whoever's traceparent came
 *   +- queue                 until it was admitted
 *   +- prefill               until its first token
 *   |  +- chunk ...          one for each slice on each stage, from its arrival to the end of its layers
 *   +- kv tail               from the end of the last chunk until the decode worker had all pages
 *   +- decode                from the first token to the last
 *
 * Times of other nodes' clocks are right to half a round trip a link, so a span is cut to lie within its parent. Nothing of what was
 * asked or answered is in it: numbers, the id of the request, and how it ended. */
#ifndef SL_NODE_EDGE_OTLP_H
#define SL_NODE_EDGE_OTLP_H

#include "node/edge/traceparent.h"
#include "pipeline/decide/core.h"
#include "pipeline/record/order.h"
#include "pipeline/record/span.h"

enum {
    SL_OTLP_MAX_SPANS = 2048
}; /* chunks x stages that are told of one request; what is beyond is counted */

struct sl_otlp_request { /* malloc'ed, with its spans behind it */
    struct sl_otlp_request *next;
    struct sl_traceparent context; /* parent_id of zeros: the request is the root */
    uint64_t seed;                 /* of the ids of its spans */
    char id[SL_MAX_REQUEST_ID];
    uint64_t unix_us;                                /* what the times below need to be since 1970 */
    uint64_t submit_us, admit_us, first_us, done_us; /* 0: it did not come to that */
    uint32_t prompt_tokens, cached_tokens, output_tokens, n_stages;
    const char *status, *finish; /* static; status NULL: it went well */
    uint32_t n_spans, n_left_out;
    struct sl_span spans[];
};

struct sl_otlp_bytes { /* zero before use; data is malloc'ed */
    uint8_t *data;
    size_t used, room;
    bool failed; /* out of memory: the rest is left out, and all of it is of no use */
};
struct sl_otlp_resource {
    const char *version, *instance, *model;
};
/* Appends one message with all requests of the list. Returns how many spans it has. */
uint32_t sl_otlp_pack(struct sl_otlp_bytes *out, const struct sl_otlp_resource *resource,
                      const struct sl_otlp_request *requests);
uint32_t sl_otlp_count(const struct sl_otlp_request *request); /* its spans */

#endif
