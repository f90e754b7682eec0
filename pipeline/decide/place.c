/* The choice of place.h, and the line that it reckons with. */
#include "pipeline/decide/place.h"

static const double KEEPS = 0.98; /* of what was known, with each step: some 50 steps count */
static const double ALIKE = 0.1;  /* of the shortest step: no difference */

void sl_step_fit_add(struct sl_step_fit *fit, uint32_t rows, double us)
{
    double x = rows;
    if (rows == 0 || !(us >= 0) || us > 1e12)
        return;
    fit->n = KEEPS * fit->n + 1;
    fit->rows = KEEPS * fit->rows + x;
    fit->rows2 = KEEPS * fit->rows2 + x * x;
    fit->us = KEEPS * fit->us + us;
    fit->rows_us = KEEPS * fit->rows_us + x * us;
}

/* More rows never take less time, and no rows never less than none. */
double sl_step_fit_us(const struct sl_step_fit *fit, uint32_t rows)
{
    if (fit->n <= 0)
        return 0;
    double x = fit->rows / fit->n, y = fit->us / fit->n, spread = fit->rows2 / fit->n - x * x,
           slope = spread > 1e-6 * x * x ? (fit->rows_us / fit->n - x * y) / spread : 0;
    slope = slope < 0 ? 0 : slope > y / x ? y / x : slope;
    double us = y + slope * (rows - x);
    return us > 1 ? us : 1;
}

/* Of one that was never measured: as fast as the fastest of the others, so that it is; if nobody was, by rows alone. */
static double step_us(const struct sl_seat *seats, uint32_t n, const struct sl_seat *seat)
{
    double us = sl_step_fit_us(seat->fit, seat->rows), least = 0;
    for (uint32_t i = 0; us <= 0 && i < n; i++) {
        double other = sl_step_fit_us(seats[i].fit, seat->rows);
        least = other > 0 && (least <= 0 || other < least) ? other : least;
    }
    us = us > 0 ? us : least;
    return us > 0 ? us : 1;
}

static bool is_better(const struct sl_seat *a, const struct sl_seat *b)
{
    if (a->kept_pages != b->kept_pages)
        return a->kept_pages > b->kept_pages;
    return a->free_pages != b->free_pages ? a->free_pages > b->free_pages : a->rows < b->rows;
}

uint32_t sl_place_choose(const struct sl_seat *seats, uint32_t n)
{
    double least = 0;
    uint32_t best = n;
    for (uint32_t i = 0; i < n; i++) {
        double us = seats[i].fits ? step_us(seats, n, &seats[i]) : 0;
        least = seats[i].fits && (least <= 0 || us < least) ? us : least;
    }
    for (uint32_t i = 0; i < n; i++)
        if (seats[i].fits && step_us(seats, n, &seats[i]) <= (1 + ALIKE) * least &&
            (best == n || is_better(&seats[i], &seats[best])))
            best = i;
    return best;
}
