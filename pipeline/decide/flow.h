/* Work that goes through stages in order: each begins a piece when it has come and the one before is done. */
#ifndef SL_PIPELINE_DECIDE_FLOW_H
#define SL_PIPELINE_DECIDE_FLOW_H

/* A piece that came at at_us and takes us, at a stage that was free from *free_us on: when it is done, and the stage free again. */
static inline double sl_flow_pass(double *free_us, double at_us, double us)
{
    double begin = at_us > *free_us ? at_us : *free_us;
    return *free_us = begin + us;
}

#endif
