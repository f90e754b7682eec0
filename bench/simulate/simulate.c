/* Seeds, one after the other, and what is said of them (simulate.h). A world that is broken enough dies by an assertion: then the line
 * that does it again is said on the way down. */
#include "bench/simulate/simulate.h"
#include "base/clock.h"
#include "bench/simulate/memory.h"
#include "bench/simulate/seed.h"
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SHOWN = 5 /* failing seeds that are said by themselves */, TRACE_LINES = 40, TRACE_BYTES = 160 };

struct simulation {
    const struct sl_simulate *options;
    struct sl_seed_config config;
    struct sl_sim_load load;
    struct sl_sim_history history;
    struct sl_seed_sums sums;
    uint64_t first, last, n_run, n_failed, first_failed;
    char first_sentence[320];
    FILE *trace;
    char lines[TRACE_LINES][TRACE_BYTES]; /* the last ones of a world that is run again */
    uint64_t n_lines;
};

/* ---- the line that does it again ---- */

static char again[600]; /* of the seed that is being run */

static void on_fatal(int signal_number)
{
    static const char said[] = "the world died; again: ";
    ssize_t n = write(STDERR_FILENO, said, sizeof said - 1);
    n = write(STDERR_FILENO, again, strlen(again));
    n = write(STDERR_FILENO, "\n", 1);
    (void)n;
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void say_when_dying(bool on)
{
    static const int fatal[] = {SIGABRT, SIGSEGV, SIGFPE, SIGBUS, SIGILL};
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++)
        signal(fatal[i], on ? on_fatal : SIG_DFL);
}

static void note_again(const struct sl_simulate *o, uint64_t seed)
{
    snprintf(
        again, sizeof again,
        "sluice simulate --seeds %" PRIu64 ":%" PRIu64
        " --stages %u --decoders %u --requests %u --context %u --max-events %u --load %.200s --faults %.100s",
        seed, seed, o->n_stages, o->n_decoders, o->n_requests, o->context, o->most_events, o->load,
        o->faults);
}

/* ---- traces ---- */

static void tell_file(void *user, uint64_t at_us, const char *what)
{
    struct simulation *s = user;
    fprintf(s->trace, "%12" PRIu64 " us  %s\n", at_us, what);
}

static void tell_last(void *user, uint64_t at_us, const char *what)
{
    struct simulation *s = user;
    snprintf(s->lines[s->n_lines++ % TRACE_LINES], TRACE_BYTES, "%12" PRIu64 " us  %.130s", at_us, what);
}

/* The same seed is the same history: a failing one is run a second time, with its last events kept. */
static void show_trace(struct simulation *s, uint64_t seed)
{
    struct sl_seed_config config = s->config;
    struct sl_seed_sums ignored = {0};
    struct sl_err err;
    config.tell = tell_last;
    config.tell_user = s;
    s->n_lines = 0;
    sl_seed_run(&config, &s->history, seed, &ignored, &err);
    uint64_t from = s->n_lines > TRACE_LINES ? s->n_lines - TRACE_LINES : 0;
    if (from > 0)
        fprintf(stderr, "  ... %" PRIu64 " events before; --trace FILE has all of them\n", from);
    for (uint64_t i = from; i < s->n_lines; i++)
        fprintf(stderr, "  %s\n", s->lines[i % TRACE_LINES]);
}

/* ---- the run ---- */

static void on_failed(struct simulation *s, uint64_t seed, const struct sl_err *err)
{
    if (s->n_failed++ == 0) {
        s->first_failed = seed;
        snprintf(s->first_sentence, sizeof s->first_sentence, "%s", err->text);
    }
    if (s->n_failed <= SHOWN)
        fprintf(stderr, "seed %" PRIu64 ": %s; again: %s\n", seed, err->text, again);
    if (s->n_failed == 1 && !s->trace)
        show_trace(s, seed);
}

static sl_status run_seeds(struct simulation *s, struct sl_err *err)
{
    for (uint64_t seed = s->first;; seed++) {
        struct sl_err why;
        note_again(s->options, seed);
        sl_status status = sl_seed_run(&s->config, &s->history, seed, &s->sums, &why);
        if (status == SL_E_INTERNAL)
            on_failed(s, seed, &why);
        else if (status != SL_OK)
            return sl_fail(err, status, "%s", why.text);
        s->n_run++;
        if (seed == s->last)
            return SL_OK;
    }
}

static void json_text(const char *text)
{
    putchar('"');
    for (; *text; text++)
        if (*text == '"' || *text == '\\')
            printf("\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            printf("\\u%04x", (unsigned char)*text);
        else
            putchar(*text);
    putchar('"');
}

static void print_json(const struct simulation *s, double cpu_s)
{
    const struct sl_simulate *o = s->options;
    const struct sl_seed_sums *u = &s->sums;
    printf("{\"seeds\": %" PRIu64 ", \"failed\": %" PRIu64
           ", \"stages\": %u, \"decoders\": %u, \"requests_per_seed\": %u, \"load\": ",
           s->n_run, s->n_failed, o->n_stages, o->n_decoders, s->load.n_requests);
    json_text(o->load);
    printf(", \"faults\": ");
    json_text(o->faults);
    printf(", \"requests\": %" PRIu64 ", \"answers_compared\": %" PRIu64 ", \"prompts_cut\": %" PRIu64
           ", \"refused\": %" PRIu64 ", \"faults\": %" PRIu64 ", \"events\": %" PRIu64
           ", \"frames\": %" PRIu64 ", \"records\": %" PRIu64 ", \"tokens\": %" PRIu64
           ", \"set_back\": %" PRIu64 ", \"cached_tokens\": %" PRIu64 ", \"given_up\": %" PRIu64
           ", \"decoders_lost\": %" PRIu64 ", \"decoders_left\": %" PRIu64 ", \"pipelines_lost\": %" PRIu64
           ", \"simulated_s\": %.3f, \"cpu_s\": %.3f, \"seeds_per_s\": %.2f",
           u->requests, u->answers, u->cut, u->refused, u->faults, u->events, u->frames, u->records,
           u->tokens, u->set_back, u->cached_tokens, u->given_up, u->lost, u->left, u->pipelines_lost,
           (double)u->end_us / 1e6, cpu_s, (double)s->n_run / cpu_s);
    if (s->n_failed > 0) {
        note_again(o, s->first_failed);
        printf(", \"first_failed\": %" PRIu64 ", \"sentence\": ", s->first_failed);
        json_text(s->first_sentence);
        printf(", \"again\": ");
        json_text(again);
    }
    printf("}\n");
}

static void print_text(const struct simulation *s, double cpu_s)
{
    const struct sl_simulate *o = s->options;
    const struct sl_seed_sums *u = &s->sums;
    printf("%" PRIu64 " seeds of %u requests, %u stages, %u decode workers, load %s, faults %s\n", s->n_run,
           s->load.n_requests, o->n_stages, o->n_decoders, o->load, o->faults);
    printf("  %" PRIu64 " events, %" PRIu64 " records, %" PRIu64 " tokens, %" PRIu64
           " answers compared with the same alone, %.1f simulated s\n",
           u->events, u->records, u->tokens, u->answers, (double)u->end_us / 1e6);
    printf("  %" PRIu64 " answers set back, %" PRIu64 " decode workers lost and %" PRIu64 " left, %" PRIu64
           " records given up, %" PRIu64 " prompt tokens from the prefix cache\n",
           u->set_back, u->lost, u->left, u->given_up, u->cached_tokens);
    if (u->pipelines_lost > 0)
        printf("  %" PRIu64 " pipelines were lost with a stage, and others came\n", u->pipelines_lost);
    if (u->cut > 0)
        printf("  %" PRIu64 " prompts were cut to the context of %u tokens (--context)\n", u->cut,
               o->context);
    printf("%" PRIu64 " seeds failed; %.1f seeds/s of one core\n", s->n_failed, (double)s->n_run / cpu_s);
}

static sl_status open_trace(struct simulation *s, struct sl_err *err)
{
    const char *path = s->options->trace;
    if (!path)
        return SL_OK;
    if (s->first != s->last)
        return sl_fail(err, SL_E_USAGE, "--trace is of one seed; say --seeds N:N");
    s->trace = fopen(path, "we");
    if (!s->trace)
        return sl_fail(err, SL_E_IO, "%.200s cannot be written: %s", path, strerror(errno));
    s->config.tell = tell_file;
    s->config.tell_user = s;
    return SL_OK;
}

static sl_status close_trace(struct simulation *s, struct sl_err *err)
{
    FILE *trace = s->trace;
    s->trace = NULL;
    return !trace || fclose(trace) == 0
               ? SL_OK
               : sl_fail(err, SL_E_IO, "%.200s cannot be written: %s", s->options->trace, strerror(errno));
}

static sl_status prepare(struct simulation *s, struct sl_err *err)
{
    const struct sl_simulate *o = s->options;
    SL_TRY(sl_seeds_parse(&s->first, &s->last, o->seeds, err));
    s->config = (struct sl_seed_config){.n_stages = o->n_stages,
                                        .n_decoders = o->n_decoders,
                                        .most_events = o->most_events,
                                        .load = &s->load};
    SL_TRY(sl_sim_faults_parse(&s->config.faults, o->faults, err));
    SL_TRY(sl_sim_load_read(&s->load, o->load, o->n_requests, o->context, err));
    SL_TRY(open_trace(s, err));
    return sl_sim_history_init(&s->history, &s->load, err);
}

sl_status sl_simulate(const struct sl_simulate *options, struct sl_err *err)
{
    struct simulation *s = calloc(1, sizeof *s);
    if (!s)
        return sl_fail(err, SL_E_NOMEM, "out of memory");
    s->options = options;
    sl_status status = prepare(s, err);
    if (status == SL_OK) {
        uint64_t began_ns = sl_clock_process_ns();
        say_when_dying(true);
        struct sl_kept_memory kept = sl_memory_keep();
        status = run_seeds(s, err);
        sl_memory_keep_no_more(&kept);
        say_when_dying(false);
        double cpu_s = (double)(sl_clock_process_ns() - began_ns) / 1e9;
        if (status == SL_OK && options->json)
            print_json(s, cpu_s);
        else if (status == SL_OK)
            print_text(s, cpu_s);
    }
    struct sl_err late;
    if (close_trace(s, &late) != SL_OK && status == SL_OK)
        status = sl_fail(err, late.status, "%s", late.text);
    if (status == SL_OK && s->n_failed > 0)
        status = sl_fail(err, SL_E_INTERNAL,
                         "%" PRIu64 " of %" PRIu64 " seeds broke a promise, the first is %" PRIu64,
                         s->n_failed, s->n_run, s->first_failed);
    sl_sim_history_fini(&s->history);
    sl_sim_load_fini(&s->load);
    free(s);
    return status;
}

/* ---- options ---- */

static bool take_number(const char **at, uint64_t *value)
{
    char *end;
    if (!(**at >= '0' && **at <= '9'))
        return false;
    errno = 0;
    *value = strtoull(*at, &end, 10);
    *at = end;
    return errno == 0 && *value < UINT64_MAX;
}

sl_status sl_seeds_parse(uint64_t *first, uint64_t *last, const char *text, struct sl_err *err)
{
    const char *at = text;
    bool fine = take_number(&at, first);
    *last = *first;
    if (fine && *at == ':')
        fine = (at++, take_number(&at, last));
    if (fine && !*at && *first <= *last)
        return SL_OK;
    return sl_fail(err, SL_E_USAGE,
                   "--seeds %.60s is not A:B, the first and the last of a row of numbers, nor one number",
                   text);
}
