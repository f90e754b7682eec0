/* `sluice top`: a live view of a running node, from its ops port. It asks, draws, waits, and draws over the frame before; it has
 * no state on the node and costs it two answers a frame. */
#include "base/clock.h"
#include "node/client/http_get.h"
#include "node/client/top.h"
#include "node/command/commands.h"
#include "node/command/shared_options.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { TIMEOUT_MS = 2000 };

struct top_values {
    double every;
    bool once;
};

static const struct sl_option top_options[] = {
    {"every", SL_OPT_FLOAT, offsetof(struct top_values, every), "1", NULL, 0.1, 3600, "s",
     "How long from one frame to the next."},
    {"once", SL_OPT_BOOL, offsetof(struct top_values, once), NULL, NULL, 0, 0, NULL,
     "Print one frame, of the time between two looks, and end: for scripts."},
    {0},
};

static sl_status look(struct sl_top *top, uint32_t source, struct sl_err *err)
{
    const char *address = top->sources[source].address;
    struct sl_http_reply reply;
    struct sl_scrape scrape;
    sl_status status = sl_http_get(&reply, address, "/metrics", TIMEOUT_MS, err);
    if (status == SL_OK && reply.status != 200)
        status =
            sl_fail(err, SL_E_UNAVAILABLE, "%s answers /metrics with %d; give the port of a node's --ops",
                    address, reply.status);
    if (status == SL_OK && !sl_scrape_read(&scrape, reply.body, reply.bytes))
        status = sl_fail(err, SL_E_NOMEM, "no memory for the metrics of %s", address);
    sl_http_reply_free(&reply);
    sl_top_take(top, source, status == SL_OK ? &scrape : NULL, (double)sl_clock_ns() * 1e-9,
                status == SL_OK ? "" : err->text);
    return status;
}

/* Of the first source, which must answer; the others may come and go. */
static sl_status look_at_all(struct sl_top *top, struct sl_err *err)
{
    struct sl_err other;
    struct sl_http_reply reply;
    sl_status status = look(top, 0, err);
    for (uint32_t i = 1; i < top->n; i++)
        look(top, i, &other);
    top->has_queue = false;
    if (status == SL_OK &&
        sl_http_get(&reply, top->sources[0].address, "/debug/schedule", TIMEOUT_MS, &other) == SL_OK) {
        top->has_queue = reply.status == 200 && sl_queue_view_read(&top->queue, reply.body, reply.bytes);
        sl_http_reply_free(&reply);
    }
    sl_top_note(top);
    return status;
}

static void pause_for(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL); /* a signal ends it: so much the better */
}

static void draw(const struct sl_top *top, bool live)
{
    struct winsize size = {0};
    struct sl_text text = {0};
    bool terminal = isatty(STDOUT_FILENO);
    uint32_t columns = 80, rows = 0;
    if (terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
        columns = size.ws_col;
        rows = live && size.ws_row > 2 ? size.ws_row - 1u : 0;
    } else if (getenv("COLUMNS") && atoi(getenv("COLUMNS")) > 0) {
        columns = (uint32_t)atoi(getenv("COLUMNS"));
    }
    if (live) /* what stood there is drawn over, and the rest cleared behind: nothing flickers */
        fputs("\x1b[H", stdout);
    sl_top_draw(top, columns, rows, terminal && !getenv("NO_COLOR"), &text);
    for (const char *at = text.data; at && *at; at += strcspn(at, "\n") + 1)
        printf("%.*s%s\n", (int)strcspn(at, "\n"), at, live ? "\x1b[K" : "");
    free(text.data);
    if (live)
        fputs("\x1b[J", stdout);
    fflush(stdout);
}

static volatile sig_atomic_t told_to_end;

static void on_end(int number)
{
    (void)number;
    told_to_end = 1;
}

static int run_top(const void *values, const char *const *args, uint32_t n_args)
{
    const struct top_values *v = values;
    struct sl_err err = {0};
    static struct sl_top top;
    static const char *const usual[] = {"127.0.0.1:8081"};
    top.n = n_args > 0 ? n_args : 1;
    for (uint32_t i = 0; i < top.n; i++)
        top.sources[i].address = n_args > 0 ? args[i] : usual[0];
    struct sigaction end = {.sa_handler = on_end};
    sigaction(SIGINT, &end, NULL);
    sigaction(SIGTERM, &end, NULL);
    bool live = !v->once && isatty(STDOUT_FILENO);
    sl_status status = look_at_all(&top, &err); /* who gives no node at all is told so */
    if (status == SL_OK && live)
        fputs("\x1b[?1049h\x1b[?25l", stdout); /* a screen of its own, without a cursor */
    while (status == SL_OK && !told_to_end) {
        pause_for(v->every);
        if (told_to_end)
            break;
        sl_status looked = look_at_all(&top, &err);
        if (v->once)
            status = looked;
        if (status == SL_OK)
            draw(&top, live);
        if (v->once || ferror(stdout))
            break;
    }
    if (live)
        fputs("\x1b[?25h\x1b[?1049l", stdout);
    sl_top_free(&top);
    return status == SL_OK ? 0 : sl_command_failed("top", &err);
}

const struct sl_command sl_command_top = {
    "top",
    "[OPS...]",
    "a live view of a running node: stages, chunks, queue, pages, rates",
    "Asks the ops ports OPS (HOST:PORT, as in --ops of the nodes; 127.0.0.1:8081) and draws what happened since it last did. The first "
    "is that of the coordinator or of `serve`; those of stages, behind it, add their MFU and tokens. Who waits is shown to who is on "
    "the coordinator's machine. Not on a terminal, a frame follows the other. Ctrl-C ends it.",
    top_options,
    sizeof(struct top_values),
    0,
    SL_TOP_SOURCES,
    run_top};
