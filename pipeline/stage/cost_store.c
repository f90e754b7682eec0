/* The file of cost_store.h:
 *
 *   sluice cost 2
 *   (the key's lines)
 *   us C GAMMA B A W E
 *   hit P
 *   reach ROWS POS       of what could have been measured
 *   POS ROWS WANTED US   for each point
 *   end */
#include "pipeline/stage/cost_store.h"
#include "base/digest.h"
#include "base/log.h"
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char head[] = "sluice cost 2\n";

void sl_cost_render(const struct sl_measured_cost *m, const char *key, char text[SL_COST_FILE])
{
    int n = snprintf(text, SL_COST_FILE, "%s%.*sus", head, SL_COST_KEY, key);
    for (int i = 0; i < SL_COST_TERMS; i++)
        n += snprintf(text + n, SL_COST_FILE - (size_t)n, " %.9e", m->cost.us[i]);
    n += snprintf(text + n, SL_COST_FILE - (size_t)n, "\nhit %.9e\nreach %" PRIu32 " %" PRIu32 "\n",
                  m->cost.hit, m->reach_rows, m->reach_pos);
    for (uint32_t i = 0; i < m->n_points; i++)
        n += snprintf(text + n, SL_COST_FILE - (size_t)n, "%" PRIu32 " %" PRIu32 " %" PRIu32 " %.9e\n",
                      m->points[i].pos, m->points[i].rows, m->points[i].wanted, m->points[i].us);
    snprintf(text + n, SL_COST_FILE - (size_t)n, "end\n");
}

/* Steps over `word`. */
static bool word(const char **at, const char *expected)
{
    size_t n = strlen(expected);
    if (strncmp(*at, expected, n) != 0)
        return false;
    *at += n;
    return true;
}

static bool number(const char **at, double *value, double most)
{
    char *end;
    *value = strtod(*at, &end);
    bool good = end != *at && *value >= 0 && *value <= most; /* which no NaN is */
    *at = end;
    return good;
}

static bool count(const char **at, uint32_t *value)
{
    double as;
    if (!number(at, &as, UINT32_MAX))
        return false;
    *value = (uint32_t)as;
    return true;
}

static const char *parse_rest(struct sl_measured_cost *m, const char *at)
{
    if (!word(&at, "us"))
        return "it is damaged";
    for (int i = 0; i < SL_COST_TERMS; i++)
        if (!number(&at, &m->cost.us[i], SL_COST_MOST_US))
            return "a coefficient is none";
    if (!word(&at, "\nhit") || !number(&at, &m->cost.hit, 1) || !word(&at, "\n"))
        return "the share of experts is none";
    if (!word(&at, "reach") || !count(&at, &m->reach_rows) || !count(&at, &m->reach_pos) || !word(&at, "\n"))
        return "the reach is none";
    while (strcmp(at, "end\n") != 0) {
        if (m->n_points == SL_COST_POINTS)
            return "it has too many points";
        struct sl_measured_point *p = &m->points[m->n_points++];
        if (!count(&at, &p->pos) || !count(&at, &p->rows) || !count(&at, &p->wanted) ||
            !number(&at, &p->us, SL_COST_MOST_US) || !word(&at, "\n"))
            return "a point is none";
    }
    return NULL;
}

const char *sl_cost_parse(struct sl_measured_cost *m, const char *key, const char *text, size_t bytes)
{
    char whole[SL_COST_FILE], again[SL_COST_FILE];
    const char *at = whole;
    *m = (struct sl_measured_cost){0};
    if (bytes >= sizeof whole || memchr(text, 0, bytes))
        return "it is no text of ours";
    memcpy(whole, text, bytes);
    whole[bytes] = 0;
    if (!word(&at, head))
        return "it is of another version, or none of ours";
    if (!word(&at, key))
        return "it is of another model or machine";
    const char *bad = parse_rest(m, at);
    if (bad)
        return bad;
    sl_cost_render(m, key, again);
    return strcmp(whole, again) == 0 ? NULL : "it is damaged";
}

static bool path_of(const char *key, const char *dir, char *path, size_t room)
{
    int n = snprintf(path, room, "%s/cost-%016" PRIx64 ".txt", dir, sl_xxh3(key, strlen(key)));
    return n > 0 && (size_t)n < room;
}

bool sl_cost_load(struct sl_measured_cost *m, const char *key, const char *dir)
{
    char path[4096], text[SL_COST_FILE];
    FILE *f = path_of(key, dir, path, sizeof path) ? fopen(path, "re") : NULL;
    if (!f)
        return false;
    size_t n = fread(text, 1, sizeof text, f);
    fclose(f);
    const char *bad = sl_cost_parse(m, key, text, n);
    if (bad)
        sl_log_warn("%s can't be used (%s): the stage is measured anew", path, bad);
    return !bad;
}

bool sl_cost_save(const struct sl_measured_cost *m, const char *key, const char *dir)
{
    char path[4096], temporary[4200], text[SL_COST_FILE];
    if (!path_of(key, dir, path, sizeof path))
        return false;
    static _Atomic uint32_t saved; /* threads of one process may write the same file */
    snprintf(temporary, sizeof temporary, "%s.%ld-%u", path, (long)getpid(),
             (unsigned)atomic_fetch_add(&saved, 1));
    FILE *f = fopen(temporary, "we");
    if (!f)
        return false;
    sl_cost_render(m, key, text);
    bool written = fputs(text, f) >= 0;
    written = fclose(f) == 0 && written;
    if (written && rename(temporary, path) == 0)
        return true;
    unlink(temporary);
    return false;
}
