/* What may go wrong in a simulated world, by name. */
#ifndef SL_BENCH_SIMULATE_FAULTS_H
#define SL_BENCH_SIMULATE_FAULTS_H

#include "base/status.h"
#include <stdint.h>

enum sl_sim_fault {
    SL_SIM_DELAY,       /* frames take their time, each another one */
    SL_SIM_REORDER,     /* frames of one link overtake those of others, by far */
    SL_SIM_CLOG,        /* nothing comes through between two nodes for a while, one way */
    SL_SIM_PARTITION,   /* some nodes do not reach the others for a while; lines may break, too */
    SL_SIM_CRASH,       /* decode workers die or leave, and others come in their place */
    SL_SIM_FREEZE,      /* a node stands still for a while */
    SL_SIM_SLOW,        /* a stage is many times slower for a while */
    SL_SIM_CLOCK,       /* the clock of a node jumps ahead, as after a suspension */
    SL_SIM_LOST_CLIENT, /* who asked goes away */
    SL_SIM_LOST_STAGE,  /* a stage dies, and the pipeline with it; another one comes in its place */
    SL_SIM_FAULTS
};

const char *sl_sim_fault_name(enum sl_sim_fault fault);
/* "none", "all", or names with commas between them. SL_E_USAGE says what is accepted. */
sl_status sl_sim_faults_parse(uint32_t *faults, const char *text, struct sl_err *err);
static inline bool sl_sim_has(uint32_t faults, enum sl_sim_fault fault)
{
    return faults >> fault & 1;
}

#endif
