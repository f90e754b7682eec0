/* A page of /metrics, read: names, labels, values. What reads it asks by name and gets no number (NaN) for what is not there,
 * because a node of another role, or of another version, has other metrics. */
#ifndef SL_NODE_CLIENT_SCRAPE_H
#define SL_NODE_CLIENT_SCRAPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SL_SCRAPE_SAMPLES = 20000 };

struct sl_sample {
    const char *name;   /* "sluice_links_up" */
    const char *labels; /* between the braces, as they stand there; "" */
    double value;
};
struct sl_scrape {
    char *text; /* what the samples point into */
    struct sl_sample *samples;
    uint32_t n;
};

/* Copies. Lines that are none are left out, and those beyond SL_SCRAPE_SAMPLES. False: no memory. */
bool sl_scrape_read(struct sl_scrape *scrape, const char *text, size_t bytes);
void sl_scrape_free(struct sl_scrape *scrape);

/* The value of that name whose labels hold all of `label` ("role=\"stage 0\""; NULL: the first of that name). NaN: none. */
double sl_scrape_value(const struct sl_scrape *scrape, const char *name, const char *label);
/* The sum over all labels. NaN: none. */
double sl_scrape_sum(const struct sl_scrape *scrape, const char *name);
/* The value of a label, cut to its room; false: it has none. */
bool sl_sample_label(const struct sl_sample *sample, const char *label, char *out, size_t room);
/* Of what came between two scrapes into the histogram of that name (NULL before: all), the value below which that share is;
 * NaN: nothing came. Values within a bucket lie evenly. */
double sl_scrape_quantile(const struct sl_scrape *now, const struct sl_scrape *before, const char *name,
                          double share);

#endif
