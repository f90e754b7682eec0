/* Histograms as files that HdrHistogram's plotters read: PREFIX-ttft.hgrm for all requests,
 * PREFIX-CLASS-ttft.hgrm for each class when there are several, with "-point3" (from 1) after the prefix
 * in a sweep. A measure without a sample has no file. */
#include "bench/serve/histogram.h"
#include "bench/serve/point.h"
#include "bench/serve/written.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Names of classes are anything; those of files are letters, digits, "-" and "_", and two classes never
 * have the same. */
static void safe_name(const struct sl_report *report, uint32_t load_class, char name[64])
{
    const char *from = report->class_names[load_class];
    bool same = strlen(from) < 40;
    uint32_t n = 0;
    for (; *from && n < 40; from++) {
        bool fine = (*from >= 'a' && *from <= 'z') || (*from >= 'A' && *from <= 'Z') ||
                    (*from >= '0' && *from <= '9') || *from == '-' || *from == '_';
        name[n++] = fine ? *from : '_';
        same = same && fine;
    }
    name[n] = 0;
    if (!same)
        snprintf(name + n, 64 - n, "%u", load_class);
}

static sl_status write_one(const struct sl_point *point, int load_class, enum sl_measure measure,
                           const char *path, struct sl_err *err)
{
    struct sl_written written;
    struct sl_histogram *histogram;
    double *values;
    uint32_t n;
    SL_TRY(sl_point_values(point, load_class, measure, &values, &n, err));
    sl_status status = n ? sl_histogram_new(&histogram, err) : SL_OK;
    if (n == 0 || status != SL_OK) {
        free(values);
        return status;
    }
    for (uint32_t i = 0; i < n; i++)
        if (isfinite(values[i]))
            sl_histogram_add(histogram, values[i] > 0 ? (uint64_t)(values[i] * 1e6 + 0.5) : 0);
        else
            sl_histogram_add_failed(histogram, 1);
    free(values);
    status = sl_written_open(&written, "histogram", path, err);
    if (status == SL_OK) {
        sl_histogram_write(histogram, written.to);
        status = sl_written_close(&written, err);
    }
    sl_histogram_free(histogram);
    return status;
}

static sl_status write_all(const struct sl_report *report, const struct sl_points *points, const char *prefix,
                           struct sl_err *err)
{
    for (uint32_t p = 0; p < points->n; p++)
        for (int c = -1; c < (report->n_classes > 1 ? (int)report->n_classes : 0); c++)
            for (enum sl_measure measure = 0; measure < SL_MEASURES; measure++) {
                char point[24] = "", name[64] = "", *path;
                if (points->n > 1)
                    snprintf(point, sizeof point, "-point%u", points->at[p].number + 1);
                if (c >= 0)
                    safe_name(report, (uint32_t)c, name);
                if (asprintf(&path, "%s%s%s%s-%s.hgrm", prefix, point, c >= 0 ? "-" : "", name,
                             sl_measure_keys[measure]) < 0)
                    return sl_fail(err, SL_E_NOMEM, "no memory to write the histograms %s", prefix);
                sl_status status = write_one(&points->at[p], c, measure, path, err);
                free(path);
                SL_TRY(status);
            }
    return SL_OK;
}

sl_status sl_report_hgrm(const struct sl_report *report, const char *prefix, struct sl_err *err)
{
    struct sl_points points;
    SL_TRY(sl_points_init(&points, report, err));
    sl_status status = write_all(report, &points, prefix, err);
    sl_points_fini(&points);
    return status;
}
