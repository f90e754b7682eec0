/* node/edge/otlp.c: the bytes of spans, looked at field by field; test_traces.py has OpenTelemetry's own messages read them. */
#include "node/edge/otlp.h"
#include "node/rpc/pb_impl.h"
#include "tests/check.h"
#include <stdlib.h>
#include <string.h>

static struct sl_otlp_request *make(uint32_t n_spans)
{
    struct sl_otlp_request *r = calloc(1, sizeof *r + n_spans * sizeof *r->spans);
    r->context.trace_id[0] = 7;
    r->seed = 99;
    strcpy(r->id, "an id");
    r->unix_us = 5000000;
    r->submit_us = 1000;
    r->admit_us = 2000;
    r->first_us = 6000;
    r->done_us = 9000;
    r->finish = "stop";
    r->n_spans = n_spans;
    return r;
}

static uint64_t fixed64(struct sl_pb_span message, uint32_t number)
{
    const uint8_t *at = message.data, *past = at + message.bytes;
    while (at < past) { /* the fields of a span before 9: texts, a small number, and these */
        uint32_t field = *at >> 3, wire = *at & 7;
        at++;
        if (wire == 1 && field == number) {
            uint64_t value;
            memcpy(&value, at, sizeof value);
            return value;
        }
        at += wire == 1 ? 8 : wire == 0 ? 1 : 1u + *at;
    }
    return 0;
}

struct found {
    char name[16];
    uint64_t begin, end;
    uint8_t id[8], parent[8];
};

/* The spans of a message, in its order; checks that lengths meet. */
static uint32_t spans_of(const struct sl_otlp_bytes *bytes, struct found *found, uint32_t room)
{
    struct sl_pb_span all = {bytes->data, bytes->used}, resource = sl_pb_find(all, 1),
                      scope = sl_pb_find(resource, 2), value;
    uint32_t number, n = 0;
    while (sl_pb_next(&scope, &number, &value))
        if (number == 2 && n < room) {
            struct sl_pb_span id = sl_pb_find(value, 2), parent = sl_pb_find(value, 4),
                              name = sl_pb_find(value, 5);
            CHECK_INT(sl_pb_find(value, 1).bytes, 16);
            CHECK_INT(id.bytes, 8);
            CHECK(parent.bytes == 0 || parent.bytes == 8);
            memset(&found[n], 0, sizeof found[n]);
            memcpy(found[n].id, id.data, id.bytes);
            if (parent.bytes)
                memcpy(found[n].parent, parent.data, parent.bytes);
            memcpy(found[n].name, name.data, name.bytes < 15 ? name.bytes : 15);
            found[n].begin = fixed64(value, 7);
            found[n].end = fixed64(value, 8);
            n++;
        }
    CHECK_INT(scope.bytes, 0);
    return n;
}

static uint32_t pack(const struct sl_otlp_request *list, struct found *found, uint32_t room)
{
    static const struct sl_otlp_resource resource = {"1", "here", "model"};
    struct sl_otlp_bytes bytes = {0};
    uint32_t n = sl_otlp_pack(&bytes, &resource, list);
    CHECK(!bytes.failed);
    CHECK_INT(spans_of(&bytes, found, room), n);
    free(bytes.data);
    return n;
}

SL_TEST(spans_of_skewed_clocks_are_cut_to_lie_within_their_parents)
{
    struct found found[8];
    struct sl_otlp_request *r = make(2);
    r->spans[0] = (struct sl_span){.recv_us = 10, .begin_us = 20, .end_us = 4000}; /* before it came */
    r->spans[1] = (struct sl_span){.recv_us = 4500, .begin_us = 5000, .end_us = 99000, .kv_acked_us = 200000};
    CHECK_INT(pack(r, found, 8), 7);
    CHECK_STR(found[0].name, "generate");
    CHECK_INT(found[0].begin, 5001000u * UINT64_C(1000));
    CHECK_INT(found[0].end, 5009000u * UINT64_C(1000));
    CHECK_STR(found[2].name, "prefill");
    for (int i = 3; i < 5; i++) {
        CHECK_STR(found[i].name, "chunk");
        CHECK(memcmp(found[i].parent, found[2].id, 8) == 0);
        CHECK(found[2].begin <= found[i].begin && found[i].begin <= found[i].end &&
              found[i].end <= found[2].end);
    }
    CHECK_STR(found[5].name, "kv tail");
    CHECK(found[5].begin <= found[5].end && found[5].end <= found[0].end);
    CHECK_STR(found[6].name, "decode");
    for (int i = 0; i < 7; i++)
        for (int k = 0; k < i; k++)
            CHECK(memcmp(found[i].id, found[k].id, 8) != 0);
    free(r);
}

SL_TEST(a_request_has_the_spans_that_it_came_to)
{
    struct found found[4];
    struct sl_otlp_request *r = make(0);
    r->first_us = r->admit_us = 0; /* refused */
    r->status = "exhausted";
    CHECK_INT(pack(r, found, 4), 2);
    CHECK_STR(found[0].name, "generate");
    CHECK_STR(found[1].name, "queue");
    CHECK_INT(found[1].end, found[0].end);
    r->admit_us = 2000; /* it ended in its prefill */
    CHECK_INT(pack(r, found, 4), 3);
    CHECK_STR(found[2].name, "prefill");
    CHECK_INT(found[2].end, found[0].end);
    free(r);
}

SL_TEST(what_was_computed_again_behind_the_first_token_is_no_part_of_the_prefill)
{
    struct found found[8];
    struct sl_otlp_request *r = make(2);
    r->spans[0] = (struct sl_span){.recv_us = 2100, .begin_us = 2200, .end_us = 3000};
    r->spans[1] = (struct sl_span){.recv_us = 7000, .begin_us = 7100, .end_us = 7200};
    CHECK_INT(pack(r, found, 8), 6);
    CHECK(memcmp(found[3].parent, found[2].id, 8) == 0);
    CHECK(memcmp(found[4].parent, found[0].id, 8) == 0);
    CHECK_INT(found[4].begin, 5007000u * UINT64_C(1000));
    free(r);
}

SL_TEST(many_requests_are_one_message_and_their_spans_are_counted)
{
    enum { REQUESTS = 5, SPANS = 700 };
    struct found *found = calloc(REQUESTS * (SPANS + 8), sizeof *found);
    struct sl_otlp_request *list = NULL;
    uint32_t expected = 0;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        struct sl_otlp_request *r = make(SPANS);
        for (uint32_t k = 0; k < SPANS; k++)
            r->spans[k] = (struct sl_span){
                .stage = (uint16_t)(k % 4), .chunk = k, .pos = k * 1000, .begin_us = 3000, .end_us = 4000};
        r->seed = i;
        r->next = list;
        list = r;
        expected += sl_otlp_count(r);
    }
    CHECK_INT(pack(list, found, REQUESTS * (SPANS + 8)), expected);
    CHECK_INT(expected, REQUESTS * (SPANS + 4));
    while (list) {
        struct sl_otlp_request *next = list->next;
        free(list);
        list = next;
    }
    free(found);
}
