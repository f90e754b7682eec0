/* Lines of OpenMetrics: name{label="value",...} number. Read once, in place, in a copy: strings are ended where they end. */
#include "node/client/scrape.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The brace that ends the labels: one within quotes does not. NULL: none. */
static char *end_of_labels(char *at)
{
    for (bool quoted = false; *at; at++) {
        if (quoted && at[0] == '\\' && at[1])
            at++;
        else if (*at == '"')
            quoted = !quoted;
        else if (*at == '}' && !quoted)
            return at;
    }
    return NULL;
}

static bool read_line(struct sl_sample *sample, char *line)
{
    size_t name_bytes = strcspn(line, "{ ");
    char *rest = line + name_bytes, *end;
    static char none[] = "";
    if (line[0] == '#' || name_bytes == 0 || !*rest)
        return false;
    *sample = (struct sl_sample){.name = line, .labels = none};
    if (*rest == '{') {
        char *close = end_of_labels(rest + 1);
        if (!close || close[1] != ' ')
            return false;
        sample->labels = rest + 1;
        *close = 0;
        *rest = 0;
        rest = close + 1;
    }
    *rest++ = 0;
    sample->value = strtod(rest, &end);
    return end != rest && (*end == 0 || *end == ' ');
}

bool sl_scrape_read(struct sl_scrape *scrape, const char *text, size_t bytes)
{
    *scrape = (struct sl_scrape){.text = malloc(bytes + 1)};
    if (!scrape->text)
        return false;
    memcpy(scrape->text, text, bytes);
    scrape->text[bytes] = 0;
    uint32_t lines = 1;
    for (size_t i = 0; i < bytes; i++) {
        lines += text[i] == '\n';
        if (!text[i])
            scrape->text[i] = '?'; /* no line has one */
    }
    lines = lines < SL_SCRAPE_SAMPLES ? lines : SL_SCRAPE_SAMPLES;
    scrape->samples = calloc(lines, sizeof *scrape->samples);
    if (!scrape->samples) {
        sl_scrape_free(scrape);
        return false;
    }
    for (char *line = scrape->text, *next; line && scrape->n < lines; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        scrape->n += read_line(&scrape->samples[scrape->n], line);
    }
    return true;
}

void sl_scrape_free(struct sl_scrape *scrape)
{
    free(scrape->text);
    free(scrape->samples);
    *scrape = (struct sl_scrape){0};
}

double sl_scrape_value(const struct sl_scrape *scrape, const char *name, const char *label)
{
    for (uint32_t i = 0; i < scrape->n; i++)
        if (strcmp(scrape->samples[i].name, name) == 0 &&
            (!label || strstr(scrape->samples[i].labels, label)))
            return scrape->samples[i].value;
    return NAN;
}

double sl_scrape_sum(const struct sl_scrape *scrape, const char *name)
{
    double sum = NAN;
    for (uint32_t i = 0; i < scrape->n; i++)
        if (strcmp(scrape->samples[i].name, name) == 0)
            sum = scrape->samples[i].value + (isnan(sum) ? 0 : sum);
    return sum;
}

bool sl_sample_label(const struct sl_sample *sample, const char *label, char *out, size_t room)
{
    size_t bytes = strlen(label);
    for (const char *at = sample->labels; *at;) {
        bool mine = strncmp(at, label, bytes) == 0 && at[bytes] == '=' && at[bytes + 1] == '"';
        const char *value = strchr(at, '"');
        if (!value)
            return false;
        size_t n = 0;
        for (at = value + 1; *at && *at != '"'; at++) {
            at += at[0] == '\\' && at[1];
            if (mine && n + 1 < room)
                out[n++] = *at;
        }
        if (mine) {
            out[n] = 0;
            return true;
        }
        at += *at == '"';
        at += *at == ',';
    }
    return false;
}

double sl_scrape_quantile(const struct sl_scrape *now, const struct sl_scrape *before, const char *name,
                          double share)
{
    char bucket[120], count[120];
    snprintf(bucket, sizeof bucket, "%s_bucket", name);
    snprintf(count, sizeof count, "%s_count", name);
    double all = sl_scrape_value(now, count, NULL);
    double gone = before ? sl_scrape_value(before, count, NULL) : 0;
    if (isnan(gone) || gone > all) /* it was started anew */
        before = NULL, gone = 0;
    if (isnan(all) || all - gone <= 0)
        return NAN;
    double wanted = share * (all - gone), below = 0, from = 0;
    for (uint32_t i = 0; i < now->n; i++) {
        char le[40], label[60];
        if (strcmp(now->samples[i].name, bucket) != 0 ||
            !sl_sample_label(&now->samples[i], "le", le, sizeof le))
            continue;
        snprintf(label, sizeof label, "le=\"%s\"", le);
        double past = before ? sl_scrape_value(before, bucket, label) : 0;
        double here = now->samples[i].value - (isnan(past) ? 0 : past), to = strtod(le, NULL);
        if (here >= wanted && here > below)
            return isinf(to) ? from : from + (to - from) * (wanted - below) / (here - below);
        below = here;
        from = to;
    }
    return from;
}
