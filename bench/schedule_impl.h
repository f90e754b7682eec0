/* What the clock of the small simulated world (schedule_world.c) and its decode worker (schedule_decode.c) share. */
#ifndef SL_BENCH_SCHEDULE_IMPL_H
#define SL_BENCH_SCHEDULE_IMPL_H

#include "bench/schedule_texts.h"
#include "bench/schedule_world.h"

enum sl_bench_event_kind {
    SL_BENCH_ARRIVE, /* request `which` */
    SL_BENCH_RESULT, /* of the oldest record that is under way */
    SL_BENCH_ADOPT,  /* frame `adopt` reaches the decode worker */
    SL_BENCH_STEP,   /* a decode step ends */
    SL_BENCH_TOKENS, /* frame `entries` reaches the coordinator */
    SL_BENCH_WAKE    /* the core wants to look at the time */
};

struct sl_bench_adopt { /* a frame to the decode worker */
    struct sl_adopt adopt;
    uint32_t which; /* of the request, for a TAKE */
};

struct sl_bench_entries { /* a frame from it */
    uint32_t n;
    struct sl_tokens_entry list[];
};

struct sl_bench_event {
    double at_us;
    uint64_t number;
    enum sl_bench_event_kind kind;
    uint32_t which;
    struct sl_bench_adopt *adopt;
    struct sl_bench_entries *entries;
};

struct sl_bench_adoptee {
    bool used, stepping; /* stepping: it is in the step that is under way */
    struct sl_adopt spec;
    uint32_t which, n_out, n_pages;
};

struct sl_bench_due { /* a record whose RESULT is under way */
    uint64_t number, seq;
    enum sl_order_kind kind;
    uint32_t n_slices, rows;
    bool fills; /* what nobody has asked for */
    struct {
        uint64_t seq;
        uint32_t index, pos, n;
        bool has_token;
    } slices[SL_MAX_SLICES];
    struct sl_trace traces[SL_MAX_STAGES];
};

struct sl_bench_world {
    struct sl_bench_world_config config;
    const struct sl_bench_traffic *load;
    struct sl_bench_outcome *outcomes;
    struct sl_bench_report *report;
    struct sl_err *err;
    sl_status status;

    struct sl_plan plan;
    struct sl_arena arena;
    struct sl_core *core;
    struct sl_actions actions;
    struct sl_ask *asks; /* [requests] */
    double *last_us;     /* [requests] of their last token */
    uint32_t n_live, next_closed;
    struct sl_bench_texts texts;
    uint32_t *
        *ids; /* [requests] of those that share some, as long as they live; NULL: a stretch of the texts */
    uint32_t *told; /* of which outputs are stretches */

    double now_us, wake_us;
    struct sl_bench_event *heap;
    uint32_t n_events, room_events;
    uint64_t n_made;

    double free_us[SL_MAX_STAGES];
    struct sl_bench_due *due; /* a ring */
    uint32_t room_due, due_head, due_tail;
    uint32_t room_ran;
    uint8_t *bytes;
    size_t n_bytes;

    struct sl_bench_adoptee adoptees[SL_MAX_BATCH];
    bool stepping;
};

/* The first failure is what the run ends with. */
void sl_bench_world_fail(struct sl_bench_world *w, sl_status status, const char *sentence);
void sl_bench_world_at(struct sl_bench_world *w, double at_us, struct sl_bench_event event);
/* Token n of request `which`, from 1. */
uint32_t sl_bench_token_of(const struct sl_bench_world *w, uint32_t which, uint32_t n);

void sl_bench_decode_deliver(struct sl_bench_world *w, const struct sl_bench_adopt *frame);
void sl_bench_decode_step(struct sl_bench_world *w);

#endif
