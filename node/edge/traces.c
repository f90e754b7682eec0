/* The thread that posts spans (traces.h). It waits a little for more before it posts, and longer after a failure; what can't be
 * posted is lost, as is what comes while QUEUE_BYTES wait: nothing is kept for a collector that may come back. */
#include "node/edge/traces.h"
#include "base/clock.h"
#include "base/digest.h"
#include "base/http/curl.h"
#include "base/log.h"
#include "base/metric.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    QUEUE_BYTES = 8 << 20,
    BATCH_REQUESTS = 64,
    GATHER_MS = 500,
    POST_MS = 5000,
    LAST_POST_MS = 2000,
    FIRST_PAUSE_MS = 1000,
    LONGEST_PAUSE_MS = 30000
};

struct sl_traces {
    const struct sl_curl *curl;
    CURL *easy;
    struct curl_slist *headers;
    char *url, *instance, *model, why[CURL_ERROR_SIZE];
    pthread_t thread;
    atomic_bool ending;
    uint64_t give_up_ns; /* the thread's; 0: it goes on */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct sl_otlp_request *first, **last; /* that wait, oldest first */
    size_t bytes;
    uint32_t n;

    _Atomic uint64_t n_sent, n_lost;
    struct sl_log_seldom seldom;
};

static size_t bytes_of(const struct sl_otlp_request *r)
{
    return sizeof *r + r->n_spans * sizeof *r->spans;
}

static void free_list(struct sl_otlp_request *list)
{
    while (list) {
        struct sl_otlp_request *next = list->next;
        free(list);
        list = next;
    }
}

void sl_traces_lost(struct sl_traces *traces, uint32_t n_spans)
{
    atomic_fetch_add(&traces->n_lost, n_spans);
}

void sl_traces_add(struct sl_traces *traces, struct sl_otlp_request *request)
{
    request->next = NULL;
    pthread_mutex_lock(&traces->lock);
    bool fits = traces->bytes + bytes_of(request) <= QUEUE_BYTES;
    if (fits) {
        *traces->last = request;
        traces->last = &request->next;
        traces->bytes += bytes_of(request);
        traces->n++;
        if (traces->n == 1 || traces->n == BATCH_REQUESTS)
            pthread_cond_signal(&traces->changed);
    }
    pthread_mutex_unlock(&traces->lock);
    if (fits)
        return;
    sl_traces_lost(traces, sl_otlp_count(request));
    free(request);
}

void sl_traces_ids(struct sl_traces *traces, uint8_t *bytes, size_t n)
{
    (void)traces;
    do { /* of zeros is no id */
        if (sl_random_bytes(bytes, n) != SL_OK)
            memset(bytes, 1, n);
    } while (n && bytes[0] == 0);
}

/* With the lock: waits until there is something, and a little longer for more; pause_ms: not sooner. */
static void wait_for_some(struct sl_traces *t, uint32_t pause_ms)
{
    struct timespec until;
    while (t->n == 0 && !atomic_load(&t->ending))
        pthread_cond_wait(&t->changed, &t->lock);
    until = sl_clock_in_ms(pause_ms > GATHER_MS ? pause_ms : GATHER_MS);
    while ((t->n < BATCH_REQUESTS || pause_ms) && !atomic_load(&t->ending))
        if (pthread_cond_timedwait(&t->changed, &t->lock, &until) != 0)
            break;
}

static struct sl_otlp_request *take(struct sl_traces *t)
{
    struct sl_otlp_request *list = t->first, **at = &list;
    for (uint32_t i = 0; i < BATCH_REQUESTS && *at; i++) {
        t->bytes -= bytes_of(*at);
        t->n--;
        at = &(*at)->next;
    }
    t->first = *at;
    *at = NULL;
    if (!t->first)
        t->last = &t->first;
    return list;
}

static size_t ignore(char *bytes, size_t size, size_t n, void *user)
{
    (void)bytes, (void)user;
    return size * n;
}

/* A post that is under way when the process is to end has LAST_POST_MS from then on. */
static int on_progress(void *user, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    struct sl_traces *t = user;
    (void)a, (void)b, (void)c, (void)d;
    if (!atomic_load(&t->ending))
        return 0;
    if (t->give_up_ns == 0)
        t->give_up_ns = sl_clock_ns() + LAST_POST_MS * UINT64_C(1000000);
    return sl_clock_ns() > t->give_up_ns;
}

static bool post(struct sl_traces *t, const struct sl_otlp_bytes *bytes)
{
    long http = 0;
    uint32_t left_out;
    t->why[0] = 0;
    t->curl->easy_setopt(t->easy, CURLOPT_POSTFIELDS, bytes->data);
    t->curl->easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)bytes->used);
    CURLcode code = t->curl->easy_perform(t->easy);
    t->curl->easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &http);
    if (code == CURLE_OK && http >= 200 && http < 300)
        return true;
    if (!sl_log_may(&t->seldom, sl_clock_ns(), &left_out))
        return false;
    if (code == CURLE_OK)
        sl_log_warn("the collector at %s answers %ld: its spans are lost", t->url, http);
    else
        sl_log_warn("no spans can be brought to %s (%s): they are lost", t->url,
                    t->why[0] ? t->why : t->curl->easy_strerror(code));
    return false;
}

static bool post_list(struct sl_traces *t, const struct sl_otlp_request *list)
{
    const struct sl_otlp_resource resource = {SLUICE_VERSION, t->instance, t->model};
    struct sl_otlp_bytes bytes = {0};
    uint32_t n = sl_otlp_pack(&bytes, &resource, list);
    bool sent = !bytes.failed && post(t, &bytes);
    atomic_fetch_add(sent ? &t->n_sent : &t->n_lost, n);
    free(bytes.data);
    return sent;
}

static void *traces_loop(void *user)
{
    struct sl_traces *t = user;
    uint32_t pause_ms = 0;
    for (;;) {
        pthread_mutex_lock(&t->lock);
        wait_for_some(t, pause_ms);
        struct sl_otlp_request *list = take(t);
        pthread_mutex_unlock(&t->lock);
        bool ending = atomic_load(&t->ending);
        if (!list && ending)
            return NULL;
        if (list && (!ending || pause_ms == 0) && post_list(t, list))
            pause_ms = 0;
        else if (list && ending && pause_ms) /* it was dead before: nobody waits for it now */
            for (const struct sl_otlp_request *r = list; r; r = r->next)
                sl_traces_lost(t, sl_otlp_count(r));
        else if (list)
            pause_ms = pause_ms == 0                     ? FIRST_PAUSE_MS
                       : 2 * pause_ms < LONGEST_PAUSE_MS ? 2 * pause_ms
                                                         : LONGEST_PAUSE_MS;
        free_list(list);
    }
}

/* An endpoint as OpenTelemetry's own variables have it: without a path, that of traces is added. */
static char *url_of(const char *given)
{
    char *url = NULL;
    size_t n = strlen(given), at = strncmp(given, "http://", 7) == 0    ? 7
                                   : strncmp(given, "https://", 8) == 0 ? 8
                                                                        : 0;
    const char *path = at ? strchr(given + at, '/') : NULL;
    if (at == 0 || n == at || given[at] == '/')
        return NULL;
    bool bare = !path || path[1] == 0;
    return asprintf(&url, "%.*s%s", (int)(bare && path ? n - 1 : n), given, bare ? "/v1/traces" : "") < 0
               ? NULL
               : url;
}

static void discard(struct sl_traces *t)
{
    if (t->easy)
        t->curl->easy_cleanup(t->easy);
    if (t->headers)
        t->curl->slist_free_all(t->headers);
    free_list(t->first);
    free(t->url);
    free(t->instance);
    free(t->model);
    pthread_cond_destroy(&t->changed);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static bool prepare(struct sl_traces *t)
{
    t->easy = t->curl->easy_init();
    t->headers = t->curl->slist_append(NULL, "Content-Type: application/x-protobuf");
    if (!t->easy || !t->headers)
        return false;
    t->curl->easy_setopt(t->easy, CURLOPT_NOSIGNAL, 1L);
    t->curl->easy_setopt(t->easy, CURLOPT_PROTOCOLS_STR, "http,https");
    t->curl->easy_setopt(t->easy, CURLOPT_URL, t->url);
    t->curl->easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers);
    t->curl->easy_setopt(t->easy, CURLOPT_TIMEOUT_MS, (long)POST_MS);
    t->curl->easy_setopt(t->easy, CURLOPT_WRITEFUNCTION, ignore);
    t->curl->easy_setopt(t->easy, CURLOPT_ERRORBUFFER, t->why);
    t->curl->easy_setopt(t->easy, CURLOPT_NOPROGRESS, 0L);
    t->curl->easy_setopt(t->easy, CURLOPT_XFERINFOFUNCTION, on_progress);
    t->curl->easy_setopt(t->easy, CURLOPT_XFERINFODATA, t);
    return true;
}

sl_status sl_traces_start(struct sl_traces **out, const char *url, const char *instance, const char *model,
                          struct sl_err *err)
{
    const struct sl_curl *curl;
    SL_TRY(sl_curl_open(&curl, "--otlp-endpoint", err));
    struct sl_traces *t = calloc(1, sizeof *t);
    if (!t)
        return sl_fail(err, SL_E_NOMEM, "no memory for traces");
    t->curl = curl;
    t->last = &t->first;
    pthread_mutex_init(&t->lock, NULL);
    sl_clock_cond_init(&t->changed);
    t->url = url_of(url);
    t->instance = strdup(instance);
    t->model = strdup(model);
    sl_status status =
        !t->url ? sl_fail(err, SL_E_USAGE, "--otlp-endpoint %.100s is no URL; say http://HOST:4318", url)
        : !t->instance || !t->model || !prepare(t) ? sl_fail(err, SL_E_NOMEM, "no memory for traces")
        : pthread_create(&t->thread, NULL, traces_loop, t) != 0
            ? sl_fail(err, SL_E_NOMEM, "cannot start a thread for traces")
            : SL_OK;
    if (status != SL_OK) {
        discard(t);
        return status;
    }
    *out = t;
    return SL_OK;
}

void sl_traces_stop(struct sl_traces *t)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->lock);
    atomic_store(&t->ending, true);
    pthread_cond_signal(&t->changed);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    discard(t);
}

void sl_traces_metrics(struct sl_traces *t, struct sl_text *text)
{
    sl_metric_head(text, "counter", "sluice_otlp_spans", "Spans for the collector, by whether it took them.");
    sl_text_add(text,
                "sluice_otlp_spans_total{result=\"sent\"} %llu\n"
                "sluice_otlp_spans_total{result=\"lost\"} %llu\n",
                (unsigned long long)atomic_load(&t->n_sent), (unsigned long long)atomic_load(&t->n_lost));
}
