/* The parts of a simulated world: sim.c (the clock and the coordinator's side), network.c (events and links), sim_stage.c and
 * sim_decode.c (the nodes). */
#ifndef SL_PIPELINE_SIM_SIM_IMPL_H
#define SL_PIPELINE_SIM_SIM_IMPL_H

#include "base/rng.h"
#include "pipeline/decide/foretold.h"
#include "pipeline/decide/sequences.h"
#include "pipeline/sim/fair.h"
#include "pipeline/sim/holder.h"

enum sl_sim_event_kind {
    SL_SIM_ARRIVE,
    SL_SIM_CANCEL,
    SL_SIM_FLUSH,
    SL_SIM_DECIDE,
    SL_SIM_DELIVER,
    SL_SIM_RAN,
    SL_SIM_STEP,
    SL_SIM_FORETELL, /* which: the word, times stages, and which of them hears it */
    SL_SIM_LEAVE,    /* which: of the config's leavings */
    SL_SIM_TOLD,     /* that it is dead */
    SL_SIM_BACK
};

struct sl_sim_event {
    uint64_t at_us, number; /* equal times: in the order of their making */
    enum sl_sim_event_kind kind;
    uint32_t which; /* request or node */
    struct sl_sim_frame *frame;
};

struct sl_sim_frame {
    struct sl_sim_frame *next;
    enum sl_plan_link_kind kind;
    uint32_t link, from; /* from: the node that sent it */
    uint32_t life;       /* of the decode worker that it is to or from */
    uint8_t *bytes;
    size_t n;
    uint64_t *rows; /* ORDER: the hidden state of every row */
    uint64_t
        seq; /* KV: whose page, which, where it lies on the sender, where it goes, how much of it counts */
    uint32_t index, page, to_page, n_tokens;
    uint64_t sum; /* of the page when it was sent */
};

struct sl_sim_link {
    struct sl_plan_link plan;
    uint32_t under_way; /* frames in slots of the receiver, or on their way there */
    uint64_t last_us;   /* frames arrive in order */
    struct sl_sim_frame *waiting, **end;
};

struct sl_sim_stage {
    uint32_t k;
    struct sl_sequences table;
    uint64_t *values;    /* [n_pages][SL_PAGE]: what the pages hold */
    uint32_t *half_page; /* [max_prefill]: the decode worker's number of a sequence's last page */
    uint64_t applied;
    struct sl_foretold foretold;
    struct sl_sim_frame *queue, **end; /* frames that were not applied yet, in order */
    bool busy, given_up;               /* what is being run */
    uint64_t begin_us;
    struct sl_order order; /* being run */
    struct sl_sequence *found[SL_MAX_SLICES];
};

struct sl_sim_word { /* that a CANCEL comes, beside the log */
    struct sl_foretold_cancel cancel;
    uint64_t heard; /* by stage */
};

struct sl_sim_text {  /* what a token depends on beside its row, as sampling would */
    uint64_t steered; /* sl_sim_steer */
    uint32_t n_out;   /* tokens so far */
    uint64_t counted; /* a sum over them, in no order */
};

struct sl_sim_adoptee {
    struct sl_sequence *sequence; /* NULL: free */
    struct sl_adopt spec;
    bool named, adopted;
    uint32_t n_forks_left;       /* that it waits for */
    uint32_t got[SL_MAX_STAGES]; /* tokens whose pages have come from each stage, or lay there */
    bool begun;
    uint32_t from; /* which those are */
    uint32_t last_id;
    struct sl_sim_text text;
};

struct sl_sim_decode {
    uint32_t place, life;
    bool dead;  /* and what comes to it, or came from it, is lost */
    bool known; /* to the decider */
    struct sl_sequences table;
    uint64_t *values; /* [n_stages][n_pages][SL_PAGE] */
    struct sl_sim_adoptee *adoptees;
    uint64_t ended[256]; /* late pages of these are dropped */
    uint32_t n_ended;
    bool stepping;
};

enum { SL_SIM_RECORDS = 1024 }; /* more than can be under way */

struct sl_sim {
    struct sl_sim_config config;
    struct sl_plan plan;
    struct sl_order_limits limits;
    struct sl_arena arena;
    struct sl_rng rng;
    uint64_t now_us, n_events_made;
    struct sl_sim_event *heap;
    uint32_t n_events, room_events;
    struct sl_sim_link
        links[SL_MAX_LINKS + SL_MAX_DECODERS]; /* the plan's, and the ways back from the decode workers */
    uint32_t n_links;

    struct sl_core *core;
    struct sl_actions actions;
    struct sl_holders holders;
    struct sl_sim_request *requests;
    struct sl_fair fair;
    uint32_t n_requests;
    bool deciding; /* a DECIDE is on its way */
    struct sl_sim_stage *stages;
    struct sl_sim_decode decoders[SL_MAX_DECODERS], *decode; /* decode: whose turn it is */
    struct sl_sim_word *words;
    uint32_t n_words;
    struct {
        uint64_t number, sum;
    } tables[SL_SIM_RECORDS]; /* by record: who has which pages behind it, as the first stage has it */
    bool planted;
    struct sl_sim_report report;
    char broken[200]; /* which promise; empty: none */
};

static inline uint64_t sl_sim_mix(uint64_t a, uint64_t b)
{
    uint64_t x = (a ^ (b + 0x9e3779b97f4a7c15u + (a << 6) + (a >> 2))) * 0xff51afd7ed558ccdu;
    return x ^ x >> 33;
}

void sl_sim_break(struct sl_sim *s, const char *format, ...) __attribute__((format(printf, 2, 3)));

uint64_t sl_sim_steer(const uint8_t *steering, uint32_t n_bytes);
/* The token that whoever samples makes of the last stage's row. */
uint32_t sl_sim_choose(const struct sl_sim *s, uint64_t row, const struct sl_sim_text *text, uint64_t seed);
static inline uint64_t sl_sim_count(uint32_t id) /* its part of sl_sim_text.counted */
{
    return sl_sim_mix(id, 1);
}
/* A position is what stage k makes of its row; the next stage's row is a hash of all positions up to it. */
static inline uint64_t sl_sim_position(uint64_t row, uint32_t k, uint32_t pos)
{
    return sl_sim_mix(row, ((uint64_t)k << 32) + pos);
}

/* What a page of a stage holds: its first n_tokens values. */
uint64_t sl_sim_page_sum(const struct sl_sim_stage *st, uint32_t page, uint32_t n_tokens);

/* network.c */
void sl_sim_at(struct sl_sim *s, uint64_t at_us, enum sl_sim_event_kind kind, uint32_t which,
               struct sl_sim_frame *frame);
bool sl_sim_next(struct sl_sim *s, struct sl_sim_event *event);
struct sl_sim_frame *sl_sim_frame(struct sl_sim *s, uint32_t from, uint32_t to, size_t bytes);
void sl_sim_send(struct sl_sim *s,
                 struct sl_sim_frame *frame); /* when the receiver has a slot free; in order */
void sl_sim_release(struct sl_sim *s, struct sl_sim_frame *frame); /* its slot goes back, and it is freed */
void sl_sim_drop_frames(struct sl_sim *s);

/* the nodes; each frame that is delivered is released by whoever was given it */
sl_status sl_sim_stages_init(struct sl_sim *s);
void sl_sim_stages_fini(struct sl_sim *s);
void sl_sim_stage_deliver(struct sl_sim *s, struct sl_sim_frame *frame);
void sl_sim_stage_ran(struct sl_sim *s, uint32_t k);
void sl_sim_stage_go_on(struct sl_sim *s,
                        struct sl_sim_stage *st); /* perhaps it can apply its next record now */

/* A CANCEL is told to the stages, on its own way. */
void sl_sim_foretell(struct sl_sim *s, struct sl_foretold_cancel cancel);
void sl_sim_stage_hear(struct sl_sim *s, uint32_t which);

sl_status sl_sim_decode_init(struct sl_sim *s);
void sl_sim_decode_fini(struct sl_sim *s);
void sl_sim_decode_deliver(struct sl_sim *s, struct sl_sim_frame *frame);
void sl_sim_decode_step(struct sl_sim *s, uint32_t place);
void sl_sim_decode_die(struct sl_sim *s, uint32_t place); /* with all that it has */

#endif
