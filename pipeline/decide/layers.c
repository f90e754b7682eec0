/* The cut of layers.h: three passes of one recurrence over (stages, layers), each with another thing to keep small. First the time
 * of the slowest stage; then, among cuts that keep to it, the sum of squares, which is least when all are alike; and where nothing
 * fits, what the fullest node lacks. */
#include "pipeline/decide/layers.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const double rounding = 1e-9;

enum aim { SLOWEST, EVEN, LEAST_LACK };

struct cut_search {
    const struct sl_layers_node *nodes;
    uint32_t n_layers, n_stages;
    enum aim aim;
    double most_us;                                     /* EVEN: of a stage */
    double best[SL_MAX_STAGES + 1][SL_LAYERS_MOST + 1]; /* of stages [0, k) with layers [0, i) */
    uint16_t from[SL_MAX_STAGES + 1][SL_LAYERS_MOST + 1];
};

double sl_layers_sum(const double *of_layers, uint32_t begin, uint32_t end)
{
    double sum = 0;
    for (uint32_t i = begin; i < end; i++)
        sum += of_layers[i];
    return sum;
}

void sl_layers_equal(uint32_t *begin, uint32_t n_layers, uint32_t n_stages)
{
    for (uint32_t k = 0; k <= n_stages; k++)
        begin[k] = (uint32_t)((uint64_t)n_layers * k / n_stages);
}

/* What a cut costs that has this stage behind what `before` costs; INFINITY: it is none. */
static double with_stage(const struct cut_search *s, const struct sl_layers_node *node, double before,
                         double us, double bytes)
{
    if (s->aim == LEAST_LACK)
        return fmax(before, bytes - node->room);
    if (bytes > node->room || (s->aim == EVEN && us > s->most_us))
        return INFINITY;
    return s->aim == EVEN ? before + us * us : fmax(before, us);
}

static void add_stage(struct cut_search *s, uint32_t k)
{
    const struct sl_layers_node *node = &s->nodes[k];
    uint32_t last = s->n_layers - (s->n_stages - 1 - k); /* those behind have a layer each */
    for (uint32_t i = k + 1; i <= last; i++) {
        double us = 0, bytes = 0, best = INFINITY;
        s->from[k + 1][i] = (uint16_t)(i - 1);
        for (uint32_t j = i; j-- > k;) {
            us += node->us[j];
            bytes += node->bytes[j];
            double cost = with_stage(s, node, s->best[k][j], us, bytes);
            if (cost < best) {
                best = cost;
                s->from[k + 1][i] = (uint16_t)j;
            }
        }
        s->best[k + 1][i] = best;
    }
}

/* Returns what the best cut costs; INFINITY: there is none. */
static double find(struct cut_search *s, enum aim aim, uint32_t *begin)
{
    s->aim = aim;
    for (uint32_t i = 0; i <= s->n_layers; i++)
        s->best[0][i] = i > 0 ? INFINITY : aim == LEAST_LACK ? -INFINITY : 0;
    for (uint32_t k = 0; k < s->n_stages; k++) {
        for (uint32_t i = 0; i <= s->n_layers; i++)
            s->best[k + 1][i] = INFINITY;
        add_stage(s, k);
    }
    begin[s->n_stages] = s->n_layers;
    for (uint32_t k = s->n_stages; k-- > 0;)
        begin[k] = s->from[k + 1][begin[k + 1]];
    return s->best[s->n_stages][s->n_layers];
}

/* Whether the equal cut is one that could be meant: as even as the best, and with room. */
static bool equal_does(const struct cut_search *s, double even)
{
    uint32_t begin[SL_MAX_STAGES + 1];
    double sum = 0;
    sl_layers_equal(begin, s->n_layers, s->n_stages);
    for (uint32_t k = 0; k < s->n_stages; k++) {
        const struct sl_layers_node *node = &s->nodes[k];
        double us = sl_layers_sum(node->us, begin[k], begin[k + 1]);
        sum += us * us;
        if (us > s->most_us || sl_layers_sum(node->bytes, begin[k], begin[k + 1]) > node->room)
            return false;
    }
    return sum <= even * (1 + rounding);
}

bool sl_layers_cut(uint32_t *begin, uint32_t n_layers, const struct sl_layers_node *nodes, uint32_t n_stages)
{
    assert(n_stages > 0 && n_stages <= n_layers && n_stages <= SL_MAX_STAGES && n_layers <= SL_LAYERS_MOST);
    struct cut_search s = {.nodes = nodes, .n_layers = n_layers, .n_stages = n_stages};
    double slowest = find(&s, SLOWEST, begin);
    if (isinf(slowest)) {
        find(&s, LEAST_LACK, begin);
        return false;
    }
    s.most_us = slowest * (1 + rounding);
    if (equal_does(&s, find(&s, EVEN, begin)))
        sl_layers_equal(begin, n_layers, n_stages);
    return true;
}

void sl_layers_write(char text[SL_LAYERS_TEXT], const uint32_t *begin, uint32_t n_stages)
{
    size_t n = 0;
    assert(n_stages <= SL_MAX_STAGES);
    text[0] = 0;
    for (uint32_t k = 0; k < n_stages; k++) {
        uint32_t layers = begin[k + 1] - begin[k];
        assert(layers <= SL_LAYERS_MOST);
        n += (size_t)snprintf(text + n, SL_LAYERS_TEXT - n, "%s%u", k ? "," : "", layers);
    }
}

/* One number up to a comma or the end; false: it is none, or none that a stage can have. */
static bool read_number(uint32_t *value, const char *text, size_t n)
{
    *value = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9' || n > 3)
            return false;
        *value = *value * 10 + (uint32_t)(text[i] - '0');
    }
    return *value > 0 && *value <= SL_LAYERS_MOST;
}

sl_status sl_layers_read(const uint32_t **layers, uint32_t room[SL_MAX_STAGES], const char *text,
                         uint32_t n_stages, struct sl_err *err)
{
    uint32_t n = 0;
    *layers = text ? room : NULL;
    for (const char *at = text; at;) {
        const char *comma = strchr(at, ',');
        size_t length = comma ? (size_t)(comma - at) : strlen(at);
        if (n == SL_MAX_STAGES)
            return sl_fail(err, SL_E_USAGE, "--layers has numbers for more than %d stages; give one a stage",
                           SL_MAX_STAGES);
        if (!read_number(&room[n++], at, length))
            return sl_fail(
                err, SL_E_USAGE,
                "--layers has \"%.*s\"; it takes the number of layers of each stage, 1 to %d, with "
                "commas between, as in 3,2,1",
                (int)(length < 40 ? length : 40), at, SL_LAYERS_MOST);
        at = comma ? comma + 1 : NULL;
    }
    if (text && n != n_stages)
        return sl_fail(err, SL_E_USAGE,
                       "--layers is a cut into %u stages and --stages is %u; make them agree", n, n_stages);
    return SL_OK;
}
