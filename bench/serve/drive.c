/* The loop that sends a load (drive.h).
 *
 * Arrivals that are known before lie in a sorted list; what becomes due by the end of something else (the next of a closed class, the
 * next turn) in a heap, timeouts and cancellations in another. The loop sends what is due, and lets the target serve what comes until the
 * next moment. Callbacks only write down and cancel; nothing is sent from within one. */
#include "bench/serve/drive.h"
#include "base/clock.h"
#include "bench/serve/histogram.h"
#include "bench/serve/moments.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

enum {
    OUTCOMES_MAX = 1 << 24,
    GAPS_MAX = 1 << 26, /* of all requests: 256 MiB */
    ERRORS_MAX = 64,
    TIMELINES_MAX = 64,
    TICK_NS = 250000000,
    PAUSE_NS =
        10000000, /* of a closed class after a failure: a server that is gone is not asked in a busy loop */
    DEADLINE_GRACE_MS = 50 /* the server's own word comes first */
};

struct talking { /* a conversation between its turns */
    struct sl_talk talk;
    uint32_t load_class, turn;
    uint64_t index;
};

struct flight { /* a call */
    bool used, cancels;
    uint32_t outcome, generation, load_class;
    struct sl_drawn drawn;
    struct talking *talking;
};

enum timer_kind { TIMER_TIMEOUT, TIMER_CANCEL };

struct sl_drive {
    struct sl_drive_config config;
    struct sl_target *target;
    const struct sl_workload *workload;
    char run_name[64];
    struct sl_prompts prompts;
    struct flight *flights; /* [max_in_flight] */
    uint32_t *free_flights, n_free;
    struct sl_due *dues; /* known before */
    uint32_t n_dues, next_due;
    struct sl_moment_heap later, timers;  /* later: a is a struct talking, or 0 and b the class */
    uint64_t next_index[SL_LOAD_CLASSES]; /* of closed ones */
    struct sl_outcomes outcomes;
    uint32_t room_outcomes;
    uint64_t n_gaps;
    char *errors[ERRORS_MAX];
    struct sl_kept_timeline *timelines;
    uint32_t n_timelines;
    struct sl_histogram *ttft; /* for the progress line */
    uint32_t n_sent, n_done, n_failed;
    uint64_t n_tokens, tick_ns;
    bool no_memory;
};

static uint64_t now_of(const struct sl_drive *d)
{
    return sl_clock_ns() - d->outcomes.began_ns;
}

/* ---- writing down ---- */

static uint32_t error_number(struct sl_drive *d, const char *sentence)
{
    uint32_t n = d->outcomes.n_errors;
    if (!sentence || !sentence[0])
        sentence = "it failed, and nobody said why";
    for (uint32_t i = 1; i < n; i++)
        if (strcmp(d->errors[i], sentence) == 0)
            return i;
    if (n == ERRORS_MAX)
        return ERRORS_MAX - 1;
    d->errors[n] = strdup(n == ERRORS_MAX - 1 ? "sentences of other kinds" : sentence);
    if (!d->errors[n])
        return 0;
    d->outcomes.n_errors++;
    return n;
}

static struct sl_outcome *new_outcome(struct sl_drive *d)
{
    if (d->outcomes.n == d->room_outcomes) {
        uint32_t more = d->room_outcomes ? 2 * d->room_outcomes : 1024;
        struct sl_outcome *grown =
            more <= OUTCOMES_MAX ? realloc(d->outcomes.all, more * sizeof *grown) : NULL;
        if (!grown) {
            d->no_memory = true;
            return NULL;
        }
        d->outcomes.all = grown;
        d->room_outcomes = more;
    }
    struct sl_outcome *o = &d->outcomes.all[d->outcomes.n];
    *o = (struct sl_outcome){.number = d->outcomes.n++,
                             .sent_ns = SL_NEVER,
                             .first_ns = SL_NEVER,
                             .last_ns = SL_NEVER,
                             .end_ns = SL_NEVER};
    return o;
}

static void add_gap(struct sl_drive *d, struct sl_outcome *o, uint64_t gap_ns)
{
    uint32_t n = o->n_gaps;
    if (d->n_gaps >= GAPS_MAX) {
        d->outcomes.n_gaps_left_out++;
        return;
    }
    if ((n & (n - 1)) == 0 && (n == 0 || n >= 8)) { /* room is 8, then powers of two */
        float *grown = realloc(o->gaps_ms, (n ? 2 * n : 8) * sizeof *grown);
        if (!grown) {
            d->outcomes.n_gaps_left_out++;
            return;
        }
        o->gaps_ms = grown;
    }
    o->gaps_ms[o->n_gaps++] = (float)((double)gap_ns * 1e-6);
    d->n_gaps++;
}

/* ---- what comes after ---- */

static void free_talking(struct talking *talking)
{
    if (talking)
        sl_talk_free(&talking->talk);
    free(talking);
}

static bool class_goes_on(const struct sl_drive *d, uint32_t load_class, uint64_t at_ns)
{
    const struct sl_workload *w = d->workload;
    const struct sl_load_class *c = &w->classes[load_class];
    return (!c->n_requests || d->next_index[load_class] < c->n_requests) &&
           (w->seconds <= 0 || (double)at_ns < w->seconds * 1e9) && !*d->config.stop;
}

/* The request of a flight is over: its next turn, or the next of its class, becomes due. */
static void follow(struct sl_drive *d, struct flight *f, bool well)
{
    const struct sl_load_class *c = &d->workload->classes[f->load_class];
    uint64_t now = now_of(d);
    struct talking *talking = f->talking;
    f->talking = NULL;
    if (talking && well && talking->turn + 1 < c->turns) {
        talking->turn++;
        if (sl_moments_add(&d->later,
                           (struct sl_moment){now + (uint64_t)c->think_ms * 1000000, (uintptr_t)talking, 0}))
            return;
        d->no_memory = true;
    }
    free_talking(talking);
    if (c->concurrency && class_goes_on(d, f->load_class, now) &&
        !sl_moments_add(&d->later, (struct sl_moment){well ? now : now + PAUSE_NS, 0, f->load_class}))
        d->no_memory = true;
}

static void land(struct sl_drive *d, uint32_t slot, enum sl_ending ending, const char *sentence,
                 uint64_t at_ns)
{
    struct flight *f = &d->flights[slot];
    struct sl_outcome *o = &d->outcomes.all[f->outcome];
    bool well = ending == SL_ENDING_DONE || ending == SL_ENDING_CANCELLED;
    o->ending = ending;
    o->end_ns = at_ns;
    if (!well || sentence)
        o->error = error_number(d, sentence);
    d->n_done += well;
    d->n_failed += !well;
    f->used = false;
    f->generation++;
    d->free_flights[d->n_free++] = slot;
    follow(d, f, well);
}

/* ---- the target's callbacks ---- */

static void on_tokens(void *user, uint32_t slot, uint64_t at_ns, uint32_t n, const uint32_t *ids,
                      const char *text)
{
    struct sl_drive *d = user;
    struct flight *f = &d->flights[slot];
    struct sl_outcome *o = &d->outcomes.all[f->outcome];
    uint64_t at = at_ns - d->outcomes.began_ns;
    if (o->n_arrivals++ == 0) {
        o->first_ns = at;
        sl_histogram_add(d->ttft, at - o->due_ns);
    } else {
        add_gap(d, o, at - o->last_ns);
    }
    o->last_ns = at;
    o->output_tokens += n;
    d->n_tokens += n;
    if (f->talking && ids)
        sl_talk_add_ids(&f->talking->talk, ids, n);
    else if (f->talking && text)
        sl_talk_add_text(&f->talking->talk, d->prompts.form, text);
    if (f->drawn.cancel_tokens && o->output_tokens >= f->drawn.cancel_tokens) {
        sl_target_cancel(d->target, slot);
        land(d, slot, SL_ENDING_CANCELLED, NULL, at);
    }
}

static void keep_timeline(struct sl_drive *d, struct sl_outcome *o, const struct sl_timeline *timeline)
{
    if (o->first_ns == SL_NEVER || !sl_split(timeline, o->sent_ns, o->first_ns, o->parts_us))
        return;
    o->has_parts = true;
    if (o->due_ns < d->outcomes.warm_ns || d->n_timelines == TIMELINES_MAX)
        return;
    struct sl_span *spans = malloc(timeline->n_spans * sizeof *spans);
    if (!spans)
        return;
    memcpy(spans, timeline->spans, timeline->n_spans * sizeof *spans);
    struct sl_kept_timeline *kept = &d->timelines[d->n_timelines++];
    *kept = (struct sl_kept_timeline){o->number, *timeline};
    kept->timeline.spans = spans;
    kept->timeline.n_foreign = 0;
    kept->timeline.foreign = NULL;
}

static void on_end(void *user, uint32_t slot, uint64_t at_ns, const struct sl_call_end *end)
{
    struct sl_drive *d = user;
    struct sl_outcome *o = &d->outcomes.all[d->flights[slot].outcome];
    if (end->input_tokens)
        o->input_tokens = end->input_tokens;
    if (end->ending == SL_ENDING_DONE && end->output_tokens)
        o->output_tokens = end->output_tokens;
    if (end->timeline)
        keep_timeline(d, o, end->timeline);
    bool empty = end->ending == SL_ENDING_DONE && o->n_arrivals == 0;
    land(d, slot, empty ? SL_ENDING_FAILED : end->ending,
         empty ? "it ended well without a token" : end->sentence, at_ns - d->outcomes.began_ns);
}

void sl_drive_hook(struct sl_drive *drive, struct sl_target_config *config)
{
    config->user = drive;
    config->on_tokens = on_tokens;
    config->on_end = on_end;
}

/* ---- sending ---- */

static void ask_for(struct sl_drive *d, struct flight *f, struct sl_call_ask *ask, struct sl_headers *headers)
{
    const struct sl_load_class *c = &d->workload->classes[f->load_class];
    *headers = (struct sl_headers){c->n_headers, c->header_names, c->header_values};
    *ask = (struct sl_call_ask){.max_tokens = f->drawn.output_tokens,
                                .force_length = !d->config.own_length,
                                .temperature = d->config.temperature,
                                .seed = (uint32_t)f->drawn.index,
                                .deadline_ms = c->deadline_ms,
                                .headers = headers};
}

static void set_timers(struct sl_drive *d, uint32_t slot, uint64_t sent_ns)
{
    struct flight *f = &d->flights[slot];
    const struct sl_load_class *c = &d->workload->classes[f->load_class];
    uint64_t name = (uint64_t)f->generation << 1, timeout_ms = d->config.timeout_ms;
    if (c->deadline_ms && c->deadline_ms + DEADLINE_GRACE_MS < timeout_ms)
        timeout_ms = c->deadline_ms + DEADLINE_GRACE_MS;
    bool fits = sl_moments_add(
        &d->timers, (struct sl_moment){sent_ns + timeout_ms * 1000000, slot, name | TIMER_TIMEOUT});
    if (f->drawn.cancel_ms)
        fits &=
            sl_moments_add(&d->timers, (struct sl_moment){sent_ns + (uint64_t)f->drawn.cancel_ms * 1000000,
                                                          slot, name | TIMER_CANCEL});
    d->no_memory |= !fits;
}

/* Sends request (class, index, turn), which is due. */
static void take_off(struct sl_drive *d, uint64_t due_ns, uint32_t load_class, uint64_t index,
                     struct talking *talking)
{
    struct sl_outcome *o = new_outcome(d);
    if (!o) {
        free_talking(talking);
        return;
    }
    uint32_t slot = d->n_free ? d->free_flights[--d->n_free] : UINT32_MAX;
    struct flight none = {0}, *f = slot != UINT32_MAX ? &d->flights[slot] : &none;
    *f = (struct flight){.used = true,
                         .outcome = o->number,
                         .generation = f->generation,
                         .load_class = load_class,
                         .talking = talking};
    sl_workload_draw(d->workload, load_class, index, talking ? talking->turn : 0, &f->drawn);
    o->due_ns = due_ns;
    o->load_class = load_class;
    o->input_tokens = f->drawn.input_tokens;
    o->wanted_tokens = f->drawn.output_tokens;
    if (slot == UINT32_MAX) {
        char sentence[96];
        snprintf(sentence, sizeof sentence, "not sent: %u requests were in flight (--max-in-flight)",
                 d->config.max_in_flight);
        o->ending = SL_ENDING_UNSENT;
        o->end_ns = now_of(d);
        o->error = error_number(d, sentence);
        d->n_failed++;
        follow(d, f, false);
        return;
    }
    struct sl_call_ask ask;
    struct sl_headers headers;
    char id[96];
    ask_for(d, f, &ask, &headers);
    snprintf(id, sizeof id, "%s-%u", d->run_name, o->number);
    ask.request_id = id;
    if (!sl_prompts_make(&d->prompts, d->workload, load_class, &f->drawn, talking ? &talking->talk : NULL,
                         &ask)) {
        o->sent_ns = now_of(d);
        land(d, slot, SL_ENDING_FAILED, "the prompt is too long to be made", o->sent_ns);
        return;
    }
    if (ask.n_ids)
        o->input_tokens = ask.n_ids;
    o->sent_ns = now_of(d);
    d->n_sent++;
    set_timers(d, slot, o->sent_ns);
    sl_target_send(d->target, slot, &ask);
}

static struct talking *begin_talk(struct sl_drive *d, uint32_t load_class, uint64_t index)
{
    if (d->workload->classes[load_class].turns <= 1)
        return NULL;
    struct talking *talking = calloc(1, sizeof *talking);
    d->no_memory |= !talking;
    if (talking)
        *talking = (struct talking){.load_class = load_class, .index = index};
    return talking;
}

static void send_later(struct sl_drive *d)
{
    struct sl_moment moment = sl_moments_take(&d->later);
    struct talking *talking = (struct talking *)(uintptr_t)moment.a;
    if (talking) {
        take_off(d, moment.at_ns, talking->load_class, talking->index, talking);
        return;
    }
    uint32_t load_class = (uint32_t)moment.b;
    if (!class_goes_on(d, load_class, moment.at_ns))
        return;
    uint64_t index = d->next_index[load_class]++;
    take_off(d, moment.at_ns, load_class, index, begin_talk(d, load_class, index));
}

static void send_due(struct sl_drive *d)
{
    const struct sl_due *due = &d->dues[d->next_due++];
    if (d->next_index[due->load_class] <= due->index)
        d->next_index[due->load_class] = due->index + 1;
    take_off(d, due->at_ns, due->load_class, due->index, begin_talk(d, due->load_class, due->index));
}

static uint64_t next_due(const struct sl_drive *d)
{
    return d->next_due < d->n_dues ? d->dues[d->next_due].at_ns : SL_NEVER;
}

static void fire(struct sl_drive *d)
{
    struct sl_moment moment = sl_moments_take(&d->timers);
    uint32_t slot = (uint32_t)moment.a;
    struct flight *f = &d->flights[slot];
    if (!f->used || f->generation != (uint32_t)(moment.b >> 1))
        return;
    bool cancels = (moment.b & 1) == TIMER_CANCEL;
    char sentence[80];
    snprintf(sentence, sizeof sentence, "no end within %u ms", d->config.timeout_ms);
    sl_target_cancel(d->target, slot);
    land(d, slot, cancels ? SL_ENDING_CANCELLED : SL_ENDING_TIMEOUT, cancels ? NULL : sentence, now_of(d));
}

/* ---- the loop ---- */

static void show_progress(struct sl_drive *d, uint64_t now)
{
    FILE *to = d->config.progress;
    double s = (double)now * 1e-9;
    if (!to || now < d->tick_ns)
        return;
    d->tick_ns = now + TICK_NS;
    fprintf(to, "\r\033[K%6.1f s  sent %u", s, d->n_sent);
    if (d->n_dues)
        fprintf(to, "/%u", d->n_dues);
    fprintf(to, "  in flight %u  done %u  failed %u  %.0f tokens/s", d->config.max_in_flight - d->n_free,
            d->n_done, d->n_failed, s > 0 ? (double)d->n_tokens / s : 0);
    if (sl_histogram_count(d->ttft))
        fprintf(to, "  TTFT p50 %.1f p99 %.1f ms", (double)sl_histogram_quantile(d->ttft, 0.5) * 1e-6,
                (double)sl_histogram_quantile(d->ttft, 0.99) * 1e-6);
    fflush(to);
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void loop(struct sl_drive *d)
{
    while (!*d->config.stop && !d->no_memory) {
        uint64_t now = now_of(d);
        while (least(next_due(d), sl_moments_next(&d->later)) <= now && !d->no_memory) {
            if (next_due(d) <= sl_moments_next(&d->later))
                send_due(d);
            else
                send_later(d);
        }
        while (sl_moments_next(&d->timers) <= now)
            fire(d);
        show_progress(d, now);
        uint64_t due = least(next_due(d), sl_moments_next(&d->later));
        if (due == SL_NEVER && d->n_free == d->config.max_in_flight)
            return;
        uint64_t next = least(least(due, sl_moments_next(&d->timers)), now + TICK_NS);
        sl_target_poll(d->target, d->outcomes.began_ns + next);
    }
}

/* What is still running when the run was ended. */
static void drop_all(struct sl_drive *d)
{
    for (uint32_t slot = 0; slot < d->config.max_in_flight; slot++) {
        struct flight *f = &d->flights[slot];
        if (!f->used)
            continue;
        sl_target_cancel(d->target, slot);
        free_talking(f->talking);
        *f = (struct flight){.generation = f->generation + 1};
        d->free_flights[d->n_free++] = slot;
    }
    while (d->later.n)
        free_talking((struct talking *)(uintptr_t)sl_moments_take(&d->later).a);
    d->timers.n = 0;
}

/* ---- a run ---- */

void sl_drive_prompts(struct sl_drive *d, enum sl_prompt_form form, uint32_t vocabulary)
{
    d->prompts.form = form;
    d->prompts.vocabulary = vocabulary;
}

void sl_drive_load(struct sl_drive *d, const struct sl_workload *workload, const char *run_name)
{
    d->workload = workload;
    snprintf(d->run_name, sizeof d->run_name, "%s", run_name);
}

/* Of /proc/stat: ticks stolen from all processors, and all ticks. */
static bool read_stolen(double *stolen, double *all)
{
    FILE *from = fopen("/proc/stat", "re");
    unsigned long long v[8];
    int n = 0;
    if (from) {
        n = fscanf(from, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2], &v[3], &v[4],
                   &v[5], &v[6], &v[7]);
        fclose(from);
    }
    *stolen = *all = 0;
    for (int i = 0; i < n; i++)
        *all += (double)v[i];
    if (n == 8)
        *stolen = (double)v[7];
    return n == 8;
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static sl_status begin_run(struct sl_drive *d, struct sl_err *err)
{
    d->outcomes = (struct sl_outcomes){0};
    d->room_outcomes = d->n_sent = d->n_done = d->n_failed = d->next_due = d->n_timelines = 0;
    d->n_gaps = d->n_tokens = d->tick_ns = 0;
    memset(d->errors, 0, sizeof d->errors);
    memset(d->next_index, 0, sizeof d->next_index);
    sl_histogram_free(d->ttft);
    d->ttft = NULL;
    free(d->dues);
    d->dues = NULL;
    d->errors[0] = strdup("");
    d->timelines = calloc(TIMELINES_MAX, sizeof *d->timelines);
    if (!d->errors[0] || !d->timelines)
        return sl_fail(err, SL_E_NOMEM, "no memory for a run");
    d->outcomes.n_errors = 1;
    d->outcomes.warm_ns = (uint64_t)(d->config.warm_up_s * 1e9);
    SL_TRY(sl_histogram_new(&d->ttft, err));
    return sl_workload_dues(d->workload, &d->dues, &d->n_dues, err);
}

static void take_results(struct sl_drive *d, struct sl_load_run *run)
{
    const char **errors = calloc(ERRORS_MAX, sizeof *errors);
    for (uint32_t i = 0; i < ERRORS_MAX; i++) {
        if (errors)
            errors[i] = d->errors[i];
        else
            free(d->errors[i]);
        d->errors[i] = NULL;
    }
    d->outcomes.errors = errors;
    if (!errors)
        d->outcomes.n_errors = 0;
    d->outcomes.over_ns = now_of(d);
    run->outcomes = d->outcomes;
    run->timelines = d->timelines;
    run->n_timelines = d->n_timelines;
    d->outcomes.all = NULL;
    d->timelines = NULL;
}

sl_status sl_drive_run(struct sl_drive *d, struct sl_target *target, struct sl_load_run *run,
                       struct sl_err *err)
{
    double stolen, all, stolen_after, all_after, cpu = cpu_seconds();
    d->target = target;
    prctl(PR_SET_TIMERSLACK, 1UL); /* waits of this thread end when they should */
    SL_TRY(begin_run(d, err));
    bool known = read_stolen(&stolen, &all);
    d->outcomes.began_ns = sl_clock_ns();
    loop(d);
    drop_all(d);
    if (d->config.progress)
        fputs("\r\033[K", d->config.progress);
    known = read_stolen(&stolen_after, &all_after) && known && all_after > all;
    run->stolen_share = known ? (stolen_after - stolen) / (all_after - all) : -1;
    run->cpu_share = (cpu_seconds() - cpu) / ((double)now_of(d) * 1e-9);
    take_results(d, run);
    if (d->no_memory)
        return sl_fail(err, SL_E_NOMEM, "no memory after %u requests; measure a shorter run",
                       run->outcomes.n);
    return SL_OK;
}

sl_status sl_drive_new(struct sl_drive **out, const struct sl_drive_config *config, struct sl_err *err)
{
    struct sl_drive *d = calloc(1, sizeof *d);
    *out = NULL;
    if (d) {
        d->config = *config;
        d->flights = calloc(config->max_in_flight, sizeof *d->flights);
        d->free_flights = calloc(config->max_in_flight, sizeof *d->free_flights);
    }
    if (!d || !d->flights || !d->free_flights) {
        sl_drive_free(d);
        return sl_fail(err, SL_E_NOMEM, "no memory for %u requests in flight", config->max_in_flight);
    }
    for (uint32_t i = 0; i < config->max_in_flight; i++)
        d->free_flights[i] = config->max_in_flight - 1 - i;
    d->n_free = config->max_in_flight;
    *out = d;
    return SL_OK;
}

void sl_drive_free(struct sl_drive *d)
{
    if (!d)
        return;
    sl_prompts_free(&d->prompts);
    sl_moments_free(&d->later);
    sl_moments_free(&d->timers);
    sl_histogram_free(d->ttft);
    for (uint32_t i = 0; i < ERRORS_MAX; i++)
        free(d->errors[i]);
    free(d->timelines);
    free(d->dues);
    free(d->flights);
    free(d->free_flights);
    free(d);
}

void sl_load_run_free(struct sl_load_run *run)
{
    for (uint32_t i = 0; i < run->outcomes.n; i++)
        free(run->outcomes.all[i].gaps_ms);
    for (uint32_t i = 0; i < run->outcomes.n_errors; i++)
        free((void *)(uintptr_t)run->outcomes.errors[i]);
    for (uint32_t i = 0; i < run->n_timelines; i++)
        free((void *)(uintptr_t)run->timelines[i].timeline.spans);
    free((void *)(uintptr_t)run->outcomes.errors);
    free((void *)(uintptr_t)run->timelines);
    free(run->outcomes.all);
    free(run->classes);
    *run = (struct sl_load_run){0};
}
