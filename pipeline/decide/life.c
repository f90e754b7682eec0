/* The tables of life.h: a row a state, a column an event, -1 where there is no step. */
#include "pipeline/decide/life.h"
#include <assert.h>

enum { NO = -1 };

static const signed char lives[SL_LIVES][SL_LIFE_EVENTS] = {
    /*                     COMPLETE          DRAIN             LOSE          STOP */
    [SL_LIFE_FORMING] = {SL_LIFE_READY, SL_LIFE_DRAINING, SL_LIFE_LOST, SL_LIFE_STOPPED},
    [SL_LIFE_READY] = {NO, SL_LIFE_DRAINING, SL_LIFE_LOST, SL_LIFE_STOPPED},
    [SL_LIFE_DRAINING] = {SL_LIFE_DRAINING, SL_LIFE_DRAINING, SL_LIFE_LOST, SL_LIFE_STOPPED},
    [SL_LIFE_LOST] = {NO, SL_LIFE_LOST, SL_LIFE_LOST, SL_LIFE_STOPPED},
    [SL_LIFE_STOPPED] = {NO, SL_LIFE_STOPPED, SL_LIFE_STOPPED, SL_LIFE_STOPPED},
};

static const signed char on_stages[SL_STAGES_STATES][SL_STAGES_EVENTS] = {
    /*                      RUN             RELEASE            ANSWER */
    [SL_STAGES_NONE] = {SL_STAGES_LIVE, NO, NO},
    [SL_STAGES_LIVE] = {SL_STAGES_LIVE, SL_STAGES_FREEING, NO},
    [SL_STAGES_FREEING] = {NO, NO, SL_STAGES_NONE},
};

static const signed char on_decode[SL_DECODE_STATES][SL_DECODE_EVENTS] = {
    /*                          EXPECT              ADOPT              LAST              STOP              GONE */
    [SL_DECODE_NONE] = {SL_DECODE_EXPECTED, NO, NO, NO, NO},
    [SL_DECODE_EXPECTED] = {NO, SL_DECODE_ADOPTED, NO, SL_DECODE_ENDING, SL_DECODE_NONE},
    [SL_DECODE_ADOPTED] = {NO, NO, SL_DECODE_ENDING, SL_DECODE_ENDING, SL_DECODE_NONE},
    [SL_DECODE_ENDING] = {NO, NO, NO, NO, SL_DECODE_NONE},
};

bool sl_life_step(enum sl_life *life, enum sl_life_event event)
{
    assert((unsigned)*life < SL_LIVES && (unsigned)event < SL_LIFE_EVENTS);
    int to = lives[*life][event];
    if (to != NO)
        *life = (enum sl_life)to;
    return to != NO;
}

const char *sl_life_name(enum sl_life life)
{
    static const char *const names[SL_LIVES] = {"forming", "ready", "draining", "lost", "stopped"};
    assert((unsigned)life < SL_LIVES);
    return names[life];
}

bool sl_on_stages_step(enum sl_on_stages *state, enum sl_on_stages_event event)
{
    assert((unsigned)*state < SL_STAGES_STATES && (unsigned)event < SL_STAGES_EVENTS);
    int to = on_stages[*state][event];
    if (to != NO)
        *state = (enum sl_on_stages)to;
    return to != NO;
}

bool sl_on_decode_step(enum sl_on_decode *state, enum sl_on_decode_event event)
{
    assert((unsigned)*state < SL_DECODE_STATES && (unsigned)event < SL_DECODE_EVENTS);
    int to = on_decode[*state][event];
    if (to != NO)
        *state = (enum sl_on_decode)to;
    return to != NO;
}
