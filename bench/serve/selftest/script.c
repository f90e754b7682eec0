/* The script of the scripted server (script.h): reading it, and what follows from it. */
#include "bench/serve/selftest/script.h"
#include "base/rng.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double MAX_SECONDS = 1e6, MAX_SIGMA = 5;

const char *const sl_fault_names[SL_FAULTS] = {"none",  "refuse", "drop",      "never", "garbage",
                                               "twice", "empty",  "usage-lie", "half",  "slow"};

sl_status sl_law_parse(struct sl_law *law, const char *option, const char *text, struct sl_err *err)
{
    *law = (struct sl_law){.kind = SL_LAW_CONSTANT};
    if (strcmp(text, "constant") == 0)
        return SL_OK;
    if (strcmp(text, "exponential") == 0) {
        law->kind = SL_LAW_EXPONENTIAL;
        return SL_OK;
    }
    char *end = NULL;
    law->kind = SL_LAW_LOGNORMAL;
    if (strncmp(text, "lognormal:", 10) == 0)
        law->sigma = strtod(text + 10, &end);
    if (!end || end == text + 10 || *end || !(law->sigma >= 0 && law->sigma <= MAX_SIGMA))
        return sl_fail(
            err, SL_E_USAGE,
            "--%s takes constant, exponential or lognormal:SIGMA with 0 <= SIGMA <= 5, not \"%.60s\"", option,
            text);
    return SL_OK;
}

/* A number of seconds at *at, up to `stop`. */
static bool read_seconds(const char **at, char stop, uint64_t *ns)
{
    char *end;
    if (**at < '0' || **at > '9')
        return false;
    double seconds = strtod(*at, &end);
    if (*end != stop && !(stop == ',' && *end == 0))
        return false;
    if (!(seconds >= 0 && seconds <= MAX_SECONDS))
        return false;
    *at = *end ? end + 1 : end;
    *ns = (uint64_t)(seconds * 1e9 + 0.5);
    return true;
}

static int by_time(const void *a, const void *b)
{
    const struct sl_stall *x = a, *y = b;
    return x->at_ns < y->at_ns ? -1 : x->at_ns > y->at_ns;
}

sl_status sl_script_parse_stalls(struct sl_script *script, const char *text, struct sl_err *err)
{
    script->n_stalls = 0;
    for (const char *at = text; at && *at;) {
        struct sl_stall *stall = &script->stalls[script->n_stalls];
        if (script->n_stalls == SL_MAX_STALLS)
            return sl_fail(err, SL_E_USAGE, "--stall takes at most %d stalls", SL_MAX_STALLS);
        if (!read_seconds(&at, ':', &stall->at_ns) || !read_seconds(&at, ',', &stall->for_ns))
            return sl_fail(
                err, SL_E_USAGE,
                "--stall takes AT:FOR in seconds, several with commas, like 2:1,5.5:0.25; not \"%.60s\"",
                text);
        script->n_stalls++;
    }
    qsort(script->stalls, script->n_stalls, sizeof script->stalls[0], by_time);
    for (uint32_t i = 1; i < script->n_stalls; i++)
        if (script->stalls[i].at_ns < script->stalls[i - 1].at_ns + script->stalls[i - 1].for_ns)
            return sl_fail(err, SL_E_USAGE, "two stalls of --stall overlap: make one of them");
    return SL_OK;
}

static enum sl_scripted_fault fault_named(const char *name, size_t bytes)
{
    for (int i = SL_FAULT_NONE + 1; i < SL_FAULTS; i++)
        if (strlen(sl_fault_names[i]) == bytes && memcmp(sl_fault_names[i], name, bytes) == 0)
            return (enum sl_scripted_fault)i;
    return SL_FAULT_NONE;
}

sl_status sl_script_parse_faults(struct sl_script *script, const char *text, struct sl_err *err)
{
    script->n_failings = 0;
    for (const char *at = text; at && *at;) {
        struct sl_failing *failing = &script->failings[script->n_failings];
        char *colon = NULL;
        unsigned long every = *at >= '0' && *at <= '9' ? strtoul(at, &colon, 10) : 0;
        size_t bytes = colon && *colon == ':' ? strcspn(colon + 1, ",") : 0;
        if (script->n_failings == SL_MAX_FAILINGS)
            return sl_fail(err, SL_E_USAGE, "--fail takes at most %d kinds", SL_MAX_FAILINGS);
        if (bytes)
            failing->fault = fault_named(colon + 1, bytes);
        if (every < 1 || every > UINT32_MAX || !bytes || failing->fault == SL_FAULT_NONE)
            return sl_fail(
                err, SL_E_USAGE,
                "--fail takes EVERY:KIND, several with commas, and KIND is refuse, drop, never, garbage, "
                "twice, empty, usage-lie, half or slow; not \"%.60s\"",
                at);
        failing->every = (uint32_t)every;
        script->n_failings++;
        at = colon + 1 + bytes;
        at += *at == ',';
    }
    return SL_OK;
}

enum sl_scripted_fault sl_script_fault(const struct sl_script *script, uint32_t number)
{
    for (uint32_t i = 0; i < script->n_failings; i++)
        if (((uint64_t)number + 1) % script->failings[i].every == 0)
            return script->failings[i].fault;
    return SL_FAULT_NONE;
}

static double draw_unit(struct sl_rng *rng) /* (0, 1] */
{
    return 1 - sl_rng_unit(sl_rng_next(rng));
}

static uint64_t draw_ns(const struct sl_law *law, double mean_ms, struct sl_rng *rng)
{
    double ms = mean_ms;
    if (law->kind == SL_LAW_EXPONENTIAL)
        ms *= -log(draw_unit(rng));
    if (law->kind == SL_LAW_LOGNORMAL) {
        double radius = sqrt(-2 * log(draw_unit(rng)));
        ms *= exp(law->sigma * radius * cos(2 * M_PI * draw_unit(rng)) - law->sigma * law->sigma / 2);
    }
    double ns = ms * 1e6 + 0.5;
    return ns < 1e15 ? (uint64_t)ns : (uint64_t)1e15;
}

void sl_script_draw(const struct sl_script *script, uint32_t number, uint32_t n_tokens, uint64_t *work_ns)
{
    struct sl_rng rng = {sl_rng_at(script->seed, number), 0};
    uint64_t at_ns = draw_ns(&script->ttft_law, script->ttft_ms, &rng), message_ns = at_ns;
    for (uint32_t k = 0; k < n_tokens; k++) {
        if (k)
            at_ns += draw_ns(&script->tpot_law, script->tpot_ms, &rng);
        if (k % script->tokens_per_message == 0)
            message_ns = at_ns;
        work_ns[k] = message_ns;
    }
}

uint64_t sl_script_after(const struct sl_script *script, uint64_t at_ns, uint64_t work_ns)
{
    for (uint32_t i = 0; i < script->n_stalls; i++) {
        const struct sl_stall *stall = &script->stalls[i];
        uint64_t end_ns = stall->at_ns + stall->for_ns;
        if (end_ns <= at_ns)
            continue;
        if (at_ns < stall->at_ns) {
            uint64_t free_ns = stall->at_ns - at_ns;
            if (work_ns < free_ns)
                break;
            work_ns -= free_ns;
        }
        at_ns = end_ns;
    }
    return at_ns + work_ns;
}
