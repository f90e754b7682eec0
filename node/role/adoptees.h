/* The sequences of a decode worker, or of one part of it: KV pages arrive from the stages while prefill still runs, an ADOPT names
 * the sequence, FORKs make others of its prompt, GROWs give it pages, and in the end all goes back. Which of these may come when,
 * and in any order that the network makes, is here; who decodes (role_decode.c, role_part.c), and what is told of an end, is the
 * owner's. So are the TOKENS frames in which a part says what has become of a sequence, to the coordinator or to its chief.
 *
 * One thread, that of the owner's steps. */
#ifndef SL_NODE_ROLE_ADOPTEES_H
#define SL_NODE_ROLE_ADOPTEES_H

#include "node/role/step.h"
#include "pipeline/record/parts.h"
#include "pipeline/stage/stage.h"

/* ---- the life of a sequence on the decode worker ---- */

enum sl_adoptee_state {
    SL_ADOPTEE_FREE,     /* not here */
    SL_ADOPTEE_ARRIVING, /* pages came; the coordinator has not named it */
    SL_ADOPTEE_NAMED,    /* ADOPT came; pages are missing */
    SL_ADOPTEE_WHOLE,    /* everything is here; the coordinator is being told when what came */
    SL_ADOPTEE_ADOPTED,  /* in the batch */
    SL_ADOPTEE_ENDING,   /* over, while other parts may still have its pages */
    SL_ADOPTEE_STATES    /* of sl_adoptee_after: that may not happen */
};
enum sl_adoptee_event {
    SL_ADOPTEE_PAGE,   /* a KV page */
    SL_ADOPTEE_NAME,   /* ADOPT */
    SL_ADOPTEE_FILLED, /* the last page that was missing is here */
    SL_ADOPTEE_TOLD,   /* ADOPTED is in a TOKENS frame */
    SL_ADOPTEE_OVER,   /* cancelled, failed or finished, and other parts are to hear of it */
    SL_ADOPTEE_END,    /* likewise, and nobody else has anything of it */
    SL_ADOPTEE_EVENTS
};
/* The state after it; SL_ADOPTEE_STATES: a page too many (its stage's fault), a second name (the coordinator's), or our own. */
enum sl_adoptee_state sl_adoptee_after(enum sl_adoptee_state state, enum sl_adoptee_event event);

struct sl_arrival {
    uint32_t stage, chunk;
    uint64_t at_us;
};

struct sl_adoptee { /* a sequence here, from its first page or its name on */
    enum sl_adoptee_state state;
    struct sl_sequence *sequence;
    struct sl_adopt spec; /* NAMED and later; what it points to was in the frame */
    /* first token of the page that each stage sends next: a stage pushes its pages in order, from the first that does not lie here
     * already, which the first page of all says, or the TAKE */
    uint32_t next[SL_MAX_STAGES];
    bool begun;
    uint32_t from;         /* once it has begun: where that was */
    uint32_t n_forks_left; /* that are to be made of its prompt before it goes on */
    uint32_t n_whole;      /* other parts that have all of theirs */
    bool is_under_way;     /* in a step that has not come back */
    uint64_t last_arrival_us;
    uint32_t n_arrivals, n_told;
    struct sl_arrival *arrivals; /* [n_stages * pages of a context] */
};

/* ---- all of them ---- */

enum { SL_TOMBSTONES = 1024 };

struct sl_adoptees {
    struct sl_stage *stage;
    const struct sl_plan *plan;
    struct sl_role_meter *meter;
    uint32_t node, part; /* whose they are */
    uint32_t
        n_others; /* parts that have to be whole as well before one is adopted: the chief waits for all */
    struct sl_adoptee *list; /* [max_running] */
    uint32_t max_arrivals;
    uint64_t ended[SL_TOMBSTONES]; /* late pages of these are dropped */
    uint32_t n_ended;
    uint8_t *out; /* SL_TOKENS_BUFFERS of tokens_bytes; the tag of a frame is its buffer */
    uint32_t free_out[SL_TOKENS_BUFFERS], n_free_out;
    struct sl_cursor said; /* of a step: over the buffer that it took */
    /* a was named. NULL: nobody wants to know */
    void (*on_named)(void *owner, struct sl_adoptee *a, const struct sl_adopt *adopt);
    /* One ends, and it is the only time that this is said of it: the owner tells it, and closes a, at once or later; a is NULL when
     * nothing of it is here. */
    void (*on_end)(void *owner, struct sl_adoptee *a, uint64_t seq, sl_status status);
    /* One that has ended is named: the two crossed. NULL: its end was told, whenever that was */
    void (*on_late_name)(void *owner, uint64_t seq);
    void *owner;
};

/* The callbacks are the owner's to set. SL_E_NOMEM: then free. */
sl_status sl_adoptees_init(struct sl_adoptees *t, const struct sl_role_config *config);
void sl_adoptees_free(struct sl_adoptees *t);

struct sl_adoptee *sl_adoptees_find(struct sl_adoptees *t, uint64_t seq); /* NULL: not here, or over */
struct sl_adoptee *sl_adoptees_find_ending(struct sl_adoptees *t, uint64_t seq);
bool sl_adoptees_has_ended(const struct sl_adoptees *t, uint64_t seq);
/* It ends, whether it ever was here (a) or not, and who is still to be made of it before it. */
void sl_adoptees_end(struct sl_adoptees *t, struct sl_adoptee *a, uint64_t seq, sl_status status);
/* It is over: other parts have to be rid of it before it is closed. */
void sl_adoptees_keep_ending(struct sl_adoptee *a);
/* Its pages and its entry go back. */
void sl_adoptees_close(struct sl_adoptees *t, struct sl_adoptee *a);

/* A KV frame: a page is copied to its place. One that is damaged or can't be ends its one sequence. */
void sl_adoptees_on_kv(struct sl_adoptees *t, const struct sl_io_event *frame);
/* An ADOPT of `from`. SL_E_CORRUPT: damaged; SL_E_PROTOCOL: it can't be; either way the role is over. */
sl_status sl_adoptees_on_adopt(struct sl_adoptees *t, const struct sl_io_event *frame, const char *from,
                               struct sl_err *err);
/* A page of it came, here or to another part. */
void sl_adoptees_note_arrival(struct sl_adoptees *t, struct sl_adoptee *a, uint32_t stage, uint32_t chunk,
                              uint64_t at_us);

/* The rows of a step that are to run here, as a chunk: those of sequences that have ended leave it, and what is in x of the others
 * moves up. x: NULL when there is nothing in it yet. NULL, or what can't be. */
const char *sl_adoptees_chunk(struct sl_adoptees *t, struct sl_step *step, float *x, struct sl_chunk *chunk);

/* ---- what is said ---- */

/* A step begins, which may have to say something; false: without a free buffer there is none. */
bool sl_adoptees_begin(struct sl_adoptees *t);
void sl_adoptees_say(struct sl_adoptees *t, const struct sl_tokens_entry *entry);
void sl_adoptees_unsay(struct sl_adoptees *t); /* all of this step */
/* There are some that sl_adoptees_tell has something to say of. */
bool sl_adoptees_any_to_tell(const struct sl_adoptees *t);
/* When pages of those that are whole came, as far as the buffer has room, and then that they are adopted. */
void sl_adoptees_tell(struct sl_adoptees *t);
/* The step ends: what was said, if anything, leaves. */
void sl_adoptees_flush(struct sl_adoptees *t, uint64_t link, struct sl_role_actions *actions);
void sl_adoptees_sent(struct sl_adoptees *t, uint64_t tag);

#endif
