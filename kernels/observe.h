/* A look at the rows that go into each matrix, for calibration: called by the blocks between runs of the team, on its
 * creating thread, with the rows as floats before any rotation or rounding. Costs one test of a pointer when nobody looks. */
#ifndef SL_KERNELS_OBSERVE_H
#define SL_KERNELS_OBSERVE_H

#include <stddef.h>
#include <stdint.h>

enum sl_site { /* whose inputs */
               SL_SITE_QKV,
               SL_SITE_O,
               SL_SITE_EXPERTS_GATE_UP, /* all rows of the layer; the router sees the same */
               SL_SITE_EXPERTS_DOWN,    /* once per expert that has rows */
               SL_SITE_SINGLE_GATE_UP,  /* dense or shared feed-forward */
               SL_SITE_SINGLE_DOWN,
               SL_SITE_HEAD,
               SL_SITES
};

struct sl_observer {
    /* x: n rows of k floats, side by side; expert: 0 where there is no choice. */
    void (*rows)(void *arg, uint32_t layer, enum sl_site site, uint32_t expert, const float *x, uint32_t n,
                 uint32_t k);
    void *arg;
    uint32_t layer; /* of the model: kept by the stage */
};

static inline void sl_observe(const struct sl_observer *o, enum sl_site site, uint32_t expert, const float *x,
                              uint32_t n, uint32_t k)
{
    if (o && n > 0)
        o->rows(o->arg, o->layer, site, expert, x, n, k);
}

#endif
