/* What a pipeline, and a request in it, can be, and the steps between: states instead of flags, so that a step that makes no
 * sense is seen where it is taken. Pure. A step returns false, and changes nothing, when the table has none. */
#ifndef SL_PIPELINE_DECIDE_LIFE_H
#define SL_PIPELINE_DECIDE_LIFE_H

#include <stdbool.h>

/* ---- a pipeline, as its coordinator and every member sees it ---- */

enum sl_life {
    SL_LIFE_FORMING,  /* members or links are missing */
    SL_LIFE_READY,    /* takes requests */
    SL_LIFE_DRAINING, /* takes no more; those it has go on */
    SL_LIFE_LOST,     /* a neighbour is gone, or sent what it may not */
    SL_LIFE_STOPPED,  /* at its own wish */
    SL_LIVES
};
enum sl_life_event { SL_LIFE_COMPLETE, SL_LIFE_DRAIN, SL_LIFE_LOSE, SL_LIFE_STOP, SL_LIFE_EVENTS };
bool sl_life_step(enum sl_life *life, enum sl_life_event event);
const char *sl_life_name(enum sl_life life); /* "ready" */

/* ---- a request: what the stages have of it ---- */

enum sl_on_stages {
    SL_STAGES_NONE,
    SL_STAGES_LIVE,    /* a RUN of it is in the log */
    SL_STAGES_FREEING, /* FREE or CANCEL is in the log, and not answered */
    SL_STAGES_STATES
};
enum sl_on_stages_event { SL_STAGES_RUN, SL_STAGES_RELEASE, SL_STAGES_ANSWER, SL_STAGES_EVENTS };
bool sl_on_stages_step(enum sl_on_stages *state, enum sl_on_stages_event event);

/* ---- a request: what the decode worker has of it ---- */

enum sl_on_decode {
    SL_DECODE_NONE,
    SL_DECODE_EXPECTED, /* pages may be there or under way; it may have been told to take the sequence */
    SL_DECODE_ADOPTED,  /* it has everything and makes tokens */
    SL_DECODE_ENDING,   /* it was told to stop, or said its last token */
    SL_DECODE_STATES
};
enum sl_on_decode_event {
    SL_DECODE_EXPECT,
    SL_DECODE_ADOPT,
    SL_DECODE_LAST, /* the last token, as the worker sees it */
    SL_DECODE_STOP, /* we tell it to stop */
    SL_DECODE_GONE, /* it has nothing left of it */
    SL_DECODE_EVENTS
};
bool sl_on_decode_step(enum sl_on_decode *state, enum sl_on_decode_event event);

/* What kept a request from being queued. */
enum sl_refusal {
    SL_REFUSAL_BY_STATUS, /* nothing that its status does not say */
    SL_REFUSAL_TIME,      /* its own first token would come too late */
    SL_REFUSAL_PROMISE,   /* that of others would */
    SL_REFUSAL_SHARE,     /* its tenant has its share of the queue */
    SL_REFUSALS
};

#endif
