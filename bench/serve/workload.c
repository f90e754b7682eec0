/* Drawing requests and their arrivals (workload.h). */
#include "bench/serve/workload.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DUES_MAX = 1 << 24 };
enum stream { ARRIVALS, LENGTHS, CANCELS };

/* ---- lengths ---- */

static bool number_from(const char **text, double *value)
{
    char *end;
    if (!(**text >= '0' && **text <= '9'))
        return false;
    *value = strtod(*text, &end);
    *text = end;
    return true;
}

static bool length_from(struct sl_length *length, const char *text)
{
    length->kind = SL_LENGTH_FIXED;
    if (strncmp(text, "normal:", 7) == 0)
        length->kind = SL_LENGTH_NORMAL, text += 7;
    else if (strncmp(text, "lognormal:", 10) == 0)
        length->kind = SL_LENGTH_LOGNORMAL, text += 10;
    if (!number_from(&text, &length->a) || length->a < 1 || length->a > SL_LOAD_MAX_TOKENS)
        return false;
    if (length->kind == SL_LENGTH_FIXED && *text == '\0')
        return length->a == floor(length->a);
    if (length->kind == SL_LENGTH_FIXED && *text == '-')
        length->kind = SL_LENGTH_UNIFORM;
    else if (length->kind == SL_LENGTH_FIXED || *text != ':')
        return false;
    text++;
    if (!number_from(&text, &length->b) || *text || length->b > SL_LOAD_MAX_TOKENS)
        return false;
    return length->kind != SL_LENGTH_UNIFORM || length->b >= length->a;
}

sl_status sl_length_parse(struct sl_length *length, const char *text, struct sl_err *err)
{
    *length = (struct sl_length){0};
    if (length_from(length, text))
        return SL_OK;
    return sl_fail(
        err, SL_E_USAGE,
        "%.60s is no length; say 512, 128-1024, normal:MEAN:DEVIATION or lognormal:MEDIAN:SIGMA, in tokens "
        "from 1 to 4194304",
        text);
}

uint32_t sl_length_draw(const struct sl_length *length, struct sl_rng *rng)
{
    double value = length->a;
    if (length->kind == SL_LENGTH_UNIFORM)
        value = length->a + floor(sl_rng_unit(sl_rng_next(rng)) * (length->b - length->a + 1));
    else if (length->kind == SL_LENGTH_NORMAL)
        value = length->a + length->b * sl_draw_normal(rng);
    else if (length->kind == SL_LENGTH_LOGNORMAL)
        value = length->a * exp(length->b * sl_draw_normal(rng));
    value = round(value);
    return value < 1 ? 1 : value > SL_LOAD_MAX_TOKENS ? SL_LOAD_MAX_TOKENS : (uint32_t)value;
}

/* ---- requests ---- */

static uint64_t seed_of(const struct sl_workload *workload, uint32_t load_class, enum stream stream)
{
    return sl_rng_at(workload->seed, 16 * (uint64_t)load_class + (uint64_t)stream);
}

static void draw_from_trace(const struct sl_arrival_trace *trace, struct sl_drawn *drawn)
{
    const struct sl_arrival_row *row = &trace->rows[drawn->index % trace->n_rows];
    drawn->input_tokens = row->input_tokens;
    drawn->output_tokens = row->output_tokens;
}

static void draw_from_lines(const struct sl_corpus *corpus, struct sl_drawn *drawn)
{
    const struct sl_corpus_line *line = &corpus->lines[drawn->index % corpus->n_lines];
    if (line->n_ids)
        drawn->input_tokens = line->n_ids;
    if (line->output_tokens)
        drawn->output_tokens = line->output_tokens;
}

void sl_workload_draw(const struct sl_workload *workload, uint32_t load_class, uint64_t index, uint32_t turn,
                      struct sl_drawn *drawn)
{
    const struct sl_load_class *c = &workload->classes[load_class];
    struct sl_rng lengths = {sl_rng_at(seed_of(workload, load_class, LENGTHS), index), 64 * (uint64_t)turn};
    struct sl_rng cancels = {sl_rng_at(seed_of(workload, load_class, CANCELS), index), turn};
    *drawn = (struct sl_drawn){.index = index, .turn = turn};
    drawn->input_tokens = sl_length_draw(&c->input, &lengths);
    drawn->output_tokens = sl_length_draw(&c->output, &lengths);
    if (c->trace)
        draw_from_trace(c->trace, drawn);
    if (c->corpus && c->corpus->n_lines)
        draw_from_lines(c->corpus, drawn);
    if (sl_rng_unit(sl_rng_next(&cancels)) < c->cancel_share) {
        drawn->cancel_tokens = c->cancel_tokens;
        drawn->cancel_ms = c->cancel_ms;
    }
}

/* ---- arrivals ---- */

static sl_status add_due(struct sl_due **dues, uint32_t *n, uint32_t *room, struct sl_due due,
                         struct sl_err *err)
{
    if (*n == DUES_MAX)
        return sl_fail(err, SL_E_USAGE,
                       "the load has more than %d requests; say fewer, or a shorter --duration", DUES_MAX);
    if (*n == *room) {
        uint32_t more = *room ? 2 * *room : 1024;
        struct sl_due *grown = realloc(*dues, more * sizeof *grown);
        if (!grown)
            return sl_fail(err, SL_E_NOMEM, "no memory for a load of %u requests", more);
        *dues = grown;
        *room = more;
    }
    (*dues)[(*n)++] = due;
    return SL_OK;
}

static bool due_at(const struct sl_load_class *c, struct sl_arrivals *arrivals, uint64_t i, uint64_t *at_ns)
{
    if (c->n_requests && i >= c->n_requests)
        return false;
    if (c->concurrency) {
        *at_ns = 0;
        return i < c->concurrency;
    }
    if (!c->trace) {
        *at_ns = sl_arrivals_next(arrivals);
        return true;
    }
    *at_ns = i < c->trace->n_rows ? (uint64_t)((double)c->trace->rows[i].at_us * 1e3 / c->trace_speed) : 0;
    return i < c->trace->n_rows;
}

static int by_time(const void *a, const void *b)
{
    const struct sl_due *x = a, *y = b;
    if (x->at_ns != y->at_ns)
        return x->at_ns < y->at_ns ? -1 : 1;
    if (x->load_class != y->load_class)
        return x->load_class < y->load_class ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

sl_status sl_workload_dues(const struct sl_workload *workload, struct sl_due **dues, uint32_t *n,
                           struct sl_err *err)
{
    uint32_t room = 0;
    sl_status status = SL_OK;
    *dues = NULL;
    *n = 0;
    for (uint32_t k = 0; k < workload->n_classes; k++) {
        const struct sl_load_class *c = &workload->classes[k];
        struct sl_arrivals arrivals = c->arrivals;
        struct sl_due due = {.load_class = k};
        sl_arrivals_begin(&arrivals, c->rate, seed_of(workload, k, ARRIVALS));
        for (; status == SL_OK && due_at(c, &arrivals, due.index, &due.at_ns); due.index++) {
            if (workload->seconds > 0 && (double)due.at_ns >= workload->seconds * 1e9)
                break;
            status = add_due(dues, n, &room, due, err);
        }
    }
    if (status != SL_OK) {
        free(*dues);
        *dues = NULL;
        *n = 0;
    } else if (*n) {
        qsort(*dues, *n, sizeof **dues, by_time);
    }
    return status;
}

/* ---- the whole ---- */

void sl_load_class_init(struct sl_load_class *c, const char *name)
{
    *c = (struct sl_load_class){.turns = 1, .trace_speed = 1, .input = {.a = 512}, .output = {.a = 64}};
    c->arrivals = (struct sl_arrivals){.kind = SL_ARRIVAL_POISSON, .shape = 1, .rate = 1};
    snprintf(c->name, sizeof c->name, "%s", name);
}

/* Letters, digits and dashes, in lower case as HTTP/2 wants it. */
static bool lower_name(char *name)
{
    for (char *p = name; *p; p++) {
        if (*p >= 'A' && *p <= 'Z')
            *p = (char)(*p + 'a' - 'A');
        if (!(*p >= 'a' && *p <= 'z') && !(*p >= '0' && *p <= '9') && *p != '-' && *p != '_' && *p != '.')
            return false;
    }
    return name[0] != 0;
}

static bool is_printable(const char *text)
{
    for (; *text; text++)
        if (*text < 0x20 || *text > 0x7e)
            return false;
    return true;
}

sl_status sl_load_class_header(struct sl_load_class *c, const char *text, struct sl_err *err)
{
    size_t n = strcspn(text, ":");
    if (c->n_headers == SL_LOAD_HEADERS)
        return sl_fail(err, SL_E_USAGE, "class %.64s has more than %d headers", c->name, SL_LOAD_HEADERS);
    char *name = strndup(text, n), *value = strdup(text[n] ? text + n + 1 + strspn(text + n + 1, " ") : "");
    if (name && value && text[n] && lower_name(name) && is_printable(value)) {
        c->header_names[c->n_headers] = name;
        c->header_values[c->n_headers++] = value;
        return SL_OK;
    }
    bool no_memory = !name || !value;
    free(name);
    free(value);
    return no_memory
               ? sl_fail(err, SL_E_NOMEM, "no memory for a header")
               : sl_fail(err, SL_E_USAGE, "header \"%.80s\" is not NAME: VALUE in printable ASCII", text);
}

static sl_status check_class(const struct sl_workload *w, const struct sl_load_class *c, struct sl_err *err)
{
    int ways = (c->rate > 0) + (c->concurrency > 0) + (c->trace != NULL);
    if (ways != 1)
        return sl_fail(err, SL_E_USAGE, "class %.64s has %s; a class has one of rate, concurrency and trace",
                       c->name, ways == 0 ? "no arrivals" : "arrivals of several kinds");
    if (!c->trace && !c->n_requests && !(w->seconds > 0))
        return sl_fail(err, SL_E_USAGE, "class %.64s never ends; say how many requests it has, or --duration",
                       c->name);
    if (c->prefix_groups && c->trace)
        return sl_fail(err, SL_E_USAGE,
                       "class %.64s has a trace, whose prefixes are its hash_ids; leave out the prefix",
                       c->name);
    if (c->turns > 1 && (c->trace || (c->corpus && c->corpus->n_lines)))
        return sl_fail(err, SL_E_USAGE,
                       "class %.64s has turns, and requests from a file; its file is what is said", c->name);
    if (c->cancel_share > 0 && !c->cancel_tokens && !c->cancel_ms)
        return sl_fail(err, SL_E_USAGE, "class %.64s cancels requests; say after how many tokens or ms",
                       c->name);
    return SL_OK;
}

sl_status sl_workload_check(const struct sl_workload *workload, struct sl_err *err)
{
    for (uint32_t k = 0; k < workload->n_classes; k++) {
        SL_TRY(check_class(workload, &workload->classes[k], err));
        for (uint32_t i = 0; i < k; i++)
            if (strcmp(workload->classes[i].name, workload->classes[k].name) == 0)
                return sl_fail(err, SL_E_USAGE, "two classes are named %.64s", workload->classes[k].name);
    }
    return SL_OK;
}

static void describe_length(const struct sl_length *l, char *text, size_t room)
{
    if (l->kind == SL_LENGTH_FIXED)
        snprintf(text, room, "%.0f", l->a);
    else
        snprintf(text, room,
                 l->kind == SL_LENGTH_UNIFORM  ? "%.0f-%.0f"
                 : l->kind == SL_LENGTH_NORMAL ? "normal:%g:%g"
                                               : "lognormal:%g:%g",
                 l->a, l->b);
}

static void describe_class(const struct sl_load_class *c, char *text, size_t room)
{
    char when[96], input[64], output[64];
    if (c->trace)
        snprintf(when, sizeof when, "trace of %u rows at speed %g", c->trace->n_rows, c->trace_speed);
    else if (c->concurrency)
        snprintf(when, sizeof when, "closed loop, %u at a time", c->concurrency);
    else if (c->arrivals.kind == SL_ARRIVAL_GAMMA)
        snprintf(when, sizeof when, "gamma:%g %g requests/s", c->arrivals.shape, c->rate);
    else
        snprintf(when, sizeof when, "%s %g requests/s",
                 c->arrivals.kind == SL_ARRIVAL_POISSON ? "poisson" : "constant", c->rate);
    describe_length(&c->input, input, sizeof input);
    describe_length(&c->output, output, sizeof output);
    if (c->trace)
        snprintf(text, room, "%s: %s", c->name, when);
    else
        snprintf(text, room, "%s: %s, %s in, %s out", c->name, when, input, output);
}

void sl_workload_describe(const struct sl_workload *workload, char *text, size_t room)
{
    size_t at = 0;
    for (uint32_t k = 0; k < workload->n_classes && at < room; k++) {
        char one[320];
        describe_class(&workload->classes[k], one, sizeof one);
        at += (size_t)snprintf(text + at, room - at, "%s%s", k ? "; " : "", one);
    }
    if (at < room)
        snprintf(text + at, room - at, "; seed %llu", (unsigned long long)workload->seed);
}

void sl_workload_free(struct sl_workload *workload)
{
    for (uint32_t k = 0; k < workload->n_classes; k++) {
        struct sl_load_class *c = &workload->classes[k];
        sl_arrival_trace_free(c->trace);
        sl_corpus_free(c->corpus);
        for (uint32_t i = 0; i < c->n_headers; i++) {
            free(c->header_names[i]);
            free(c->header_values[i]);
        }
    }
    workload->n_classes = 0;
}
