/* The scripted server without a clock: requests arrive, wait for one of the servers in the order of their arrival, are served, and
 * every time at which something leaves is known as soon as they are. Time is an argument.
 *
 * A turn is one request. Whoever waits is served from the very moment that another's turn was to end, not from when somebody
 * noticed, so the queue is exactly that of its script: M/M/c and M/D/1 if arrivals and laws say so. Turns that end at one moment
 * end in the order of their begin. A refused one and one that is never answered take no server.
 *
 * Pure, but for the memory of a turn's times. All times are ns of one clock; the script's zero is the first arrival. */
#ifndef SL_BENCH_SERVE_SELFTEST_SCENE_H
#define SL_BENCH_SERVE_SELFTEST_SCENE_H

#include "bench/serve/selftest/script.h"
#include <stdatomic.h>

#define SL_NOT_DUE UINT64_MAX
enum { SL_SCENE_TURNS = 16384 };

struct sl_turn;
struct sl_cue { /* something to be done at a time */
    uint64_t at_ns, order;
    uint32_t place; /* in the heap, from 1; 0: not there */
    struct sl_turn *turn;
};

struct sl_turn {
    /* who arrives says */
    const char *id; /* malloc'ed; NULL: its number */
    void *user;     /* of who performs it */
    /* It has something to send, or `gone` was set. From the play's thread with the play's lock; it must not call back. */
    void (*on_wake)(struct sl_turn *turn);
    bool unary; /* the whole answer when its last token is due */
    bool http;
    uint32_t prompt_tokens, max_tokens; /* max_tokens >= 1, <= SL_MAX_SCRIPTED_TOKENS */

    /* the scene's */
    uint32_t number, slot;
    enum sl_scripted_fault fault;
    enum { SL_TURN_WAITS, SL_TURN_SERVED, SL_TURN_APART, SL_TURN_ENDED } state; /* APART: takes no server */
    struct sl_cue wake, leave;
    uint64_t arrival_ns, begin_ns, leave_ns; /* leave: as the script has it; then its server is free */
    atomic_bool begun; /* begin, leave and token_ns are there: from here on they belong to who performs it */
    uint32_t per_message;
    uint32_t n_tokens; /* that it says: half as many as asked for, rounded up, when it is dropped or halved */
    uint64_t *token_ns; /* [n_tokens]: when each is due; once it was sent, when it was */

    atomic_bool gone; /* its client has left, or it was aborted */

    /* who performs it */
    uint32_t n_sent, step;
    bool empty_sent;
    uint64_t previous_ns; /* when the last message was due */
    uint64_t late_ns;     /* the most that anything was */
    uint64_t first_ns, end_ns;
    const char *ending; /* static: "done", "refused", "left", "aborted", "stopped" */
    struct sl_turn *next;
};

struct sl_cues {          /* a heap, by time, then by when they were written down */
    struct sl_cue **heap; /* [1 + n] */
    uint32_t n;
};

struct sl_scene {
    const struct sl_script *script;
    uint32_t n_servers, n_busy; /* n_servers 0: as many as there are requests */
    bool opened;
    uint64_t zero_ns, n_orders;
    uint32_t n_turns, n_waiting, n_arrived;
    struct sl_cues leaves, wakes;
    struct sl_turn *first, *last; /* who waits */
    struct sl_turn **turns;       /* [SL_SCENE_TURNS], by slot; NULL: free */
    uint32_t *free_slots;         /* [SL_SCENE_TURNS - n_turns] */
};

sl_status sl_scene_init(struct sl_scene *scene, const struct sl_script *script, uint32_t n_servers,
                        struct sl_err *err);
void sl_scene_fini(struct sl_scene *scene); /* all turns have left */
/* The next request. SL_E_EXHAUSTED: too many turns, or no memory; the turn is as it was. */
sl_status sl_scene_arrive(struct sl_scene *scene, struct sl_turn *turn, uint64_t now_ns, struct sl_err *err);
/* When sl_scene_due has something to do next; SL_NOT_DUE: when somebody arrives. */
uint64_t sl_scene_next(const struct sl_scene *scene);
/* Does what is due, in order: whoever waited is served. Returns a turn that has something to send; NULL: all is done. */
struct sl_turn *sl_scene_due(struct sl_scene *scene, uint64_t now_ns);
void sl_scene_wake_at(struct sl_scene *scene, struct sl_turn *turn, uint64_t at_ns);
/* It is over, whether it was served to its end or not; its place goes to the next. The turn is the caller's again. */
void sl_scene_leave(struct sl_scene *scene, struct sl_turn *turn, uint64_t now_ns);
void sl_turn_fini(struct sl_turn *turn); /* its times and its id */

enum sl_send_kind {
    SL_SEND_EMPTY,   /* a message without a token */
    SL_SEND_TOKENS,  /* [first, first + n) */
    SL_SEND_GARBAGE, /* bytes that are no message */
    SL_SEND_FINISH,  /* the answer is complete */
    SL_SEND_WHOLE,   /* unary: the answer with all its tokens */
    SL_SEND_EXTRA,   /* a token after the end */
    SL_SEND_DROP,    /* break off */
    SL_SEND_CLOSE    /* the stream ends well; nothing comes after this or DROP */
};
struct sl_send {
    enum sl_send_kind kind;
    uint32_t first, n;
    uint64_t at_ns; /* when it was due */
};

/* What the turn has to send at now, one at a time; false: nothing now, and *send says from when on. */
bool sl_turn_send(struct sl_turn *turn, uint64_t now_ns, struct sl_send *send);
/* It was given to the transport. */
void sl_turn_sent(struct sl_turn *turn, const struct sl_send *send, uint64_t now_ns);

#endif
