/* Arrival processes (arrivals.h): each draws the gap to the one before, in units of the mean gap. */
#include "bench/serve/arrivals.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double SHAPE_MIN = 0.01, SHAPE_MAX = 1e6;

double sl_draw_unit(struct sl_rng *rng)
{
    return 1 - sl_rng_unit(sl_rng_next(rng));
}

double sl_draw_normal(struct sl_rng *rng)
{
    double radius = sqrt(-2 * log(sl_draw_unit(rng)));
    return radius * cos(2 * M_PI * sl_draw_unit(rng));
}

double sl_draw_gamma(struct sl_rng *rng, double shape)
{
    if (shape < 1) /* gamma(k) = gamma(k + 1) * u^(1/k) */
        return sl_draw_gamma(rng, shape + 1) * pow(sl_draw_unit(rng), 1 / shape);
    double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double x = sl_draw_normal(rng), v = 1 + c * x;
        if (v <= 0)
            continue;
        v = v * v * v;
        if (log(sl_draw_unit(rng)) < 0.5 * x * x + d - d * v + d * log(v))
            return d * v;
    }
}

sl_status sl_arrivals_parse(struct sl_arrivals *arrivals, const char *text, struct sl_err *err)
{
    *arrivals = (struct sl_arrivals){.shape = 1, .rate = 1};
    if (strcmp(text, "poisson") == 0)
        arrivals->kind = SL_ARRIVAL_POISSON;
    else if (strcmp(text, "constant") == 0)
        arrivals->kind = SL_ARRIVAL_CONSTANT;
    else if (strncmp(text, "gamma:", 6) == 0) {
        char *end;
        arrivals->kind = SL_ARRIVAL_GAMMA;
        arrivals->shape = strtod(text + 6, &end);
        if (!text[6] || *end || !(arrivals->shape >= SHAPE_MIN && arrivals->shape <= SHAPE_MAX))
            return sl_fail(
                err, SL_E_USAGE,
                "the shape in %.60s is no number from 0.01 to 1e6; below 1 is burstier than Poisson", text);
    } else {
        return sl_fail(err, SL_E_USAGE, "%.60s is no arrival process; say poisson, constant or gamma:SHAPE",
                       text);
    }
    return SL_OK;
}

void sl_arrivals_begin(struct sl_arrivals *arrivals, double rate, uint64_t seed)
{
    arrivals->rate = rate;
    arrivals->rng = (struct sl_rng){seed, 0};
    arrivals->at_s = 0;
}

uint64_t sl_arrivals_next(struct sl_arrivals *arrivals)
{
    double gap = 1;
    if (arrivals->kind == SL_ARRIVAL_POISSON)
        gap = -log(sl_draw_unit(&arrivals->rng));
    else if (arrivals->kind == SL_ARRIVAL_GAMMA)
        gap = sl_draw_gamma(&arrivals->rng, arrivals->shape) / arrivals->shape;
    arrivals->at_s += gap / arrivals->rate;
    return arrivals->at_s < 1e9 ? (uint64_t)(arrivals->at_s * 1e9) : (uint64_t)1e18;
}
