/* On which decode worker an answer begins. It stays there: its pages are pushed while it is still prefilled.
 *
 * Where it fits (places in the batch, pages with what all are expected to become) and makes its tokens soonest: what a step of so
 * many rows takes is measured, step by step, for each worker, so a slow machine gets fewer answers and a new one is tried. Between
 * workers that differ by less than what such a measurement is good for, it begins where most of its prompt lies already, and where
 * that is equal, where most pages are free. Pure. */
#ifndef SL_PIPELINE_DECIDE_PLACE_H
#define SL_PIPELINE_DECIDE_PLACE_H

#include <stdbool.h>
#include <stdint.h>

struct
    sl_step_fit { /* us = at_rest + of_a_row * rows, by least squares that forget; all 0: nothing was measured */
    double n, rows, rows2, us, rows_us;
};
void sl_step_fit_add(struct sl_step_fit *fit, uint32_t rows, double us);
double sl_step_fit_us(const struct sl_step_fit *fit, uint32_t rows); /* more than 0; 0: nothing is known */

struct sl_seat {         /* what a worker would be with the answer */
    bool fits;           /* it may begin there at all */
    uint32_t rows;       /* of its batch then */
    uint32_t kept_pages; /* of the prompt, that lie there */
    uint32_t free_pages; /* that nobody has, or is expected to want */
    const struct sl_step_fit *fit;
};
/* Its number; n: nowhere now. */
uint32_t sl_place_choose(const struct sl_seat *seats, uint32_t n);

#endif
