/* `sluice report`: what somebody who helps needs to know, in one file. What a node says of itself (version, probes, metrics, schedule),
 * the machine, the options, the ends of logs. Nothing that a client sent but the names of requests and tenants: prompts
 * and outputs are in none of these, and what is not named here is not taken. */
#include "base/clock.h"
#include "base/text.h"
#include "node/client/http_get.h"
#include "node/client/tar.h"
#include "node/command/commands.h"
#include "node/command/shared_options.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

enum { MAX_NODES = 32, MAX_FILES = 64, TIMEOUT_MS = 5000, LOG_BYTES = 1 << 20, FACT_BYTES = 64 << 10 };

struct report_values {
    const char *to, *log, *options;
};

static const struct sl_option report_options[] = {
    {"to", SL_OPT_STRING, offsetof(struct report_values, to), "sluice-report.tar", NULL, 0, 0, "FILE",
     "Where to write it."},
    {"log", SL_OPT_LIST, offsetof(struct report_values, log), NULL, NULL, 0, 0, "FILE",
     "A log whose last MiB is put in; several times for several."},
    {"options", SL_OPT_LIST, offsetof(struct report_values, options), NULL, NULL, 0, 0, "FILE",
     "A YAML file that a node got as --config; what may be a secret in it is left out."},
    {0},
};

struct bundle {
    struct sl_tar tar;
    struct sl_text notes; /* what could not be had, and why */
};

/* ---- files ---- */

/* The last `most` bytes of a file, or of one in /proc, which has no size. NULL: it can't be read; errno says why. */
static char *read_end(const char *path, size_t most, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    char *data = file ? malloc(most + 1) : NULL;
    *bytes = 0;
    if (data && fseek(file, 0, SEEK_END) == 0 && ftell(file) > (long)most)
        fseek(file, -(long)most, SEEK_END);
    else if (file)
        rewind(file);
    if (data)
        *bytes = fread(data, 1, most, file);
    if (data && ferror(file)) {
        free(data);
        data = NULL;
    }
    if (data)
        data[*bytes] = 0;
    if (file)
        fclose(file);
    return data;
}

static bool has_word(const char *name, size_t bytes, const char *word)
{
    size_t n = strlen(word);
    for (size_t i = 0; i + n <= bytes; i++)
        if (strncasecmp(name + i, word, n) == 0)
            return true;
    return false;
}

/* Our options name files where there are secrets, so that none is an option's value; but who knows what is in a file. */
static bool is_secret(const char *name, size_t bytes)
{
    static const char *const words[] = {"secret", "password", "passwd", "credential",
                                        "salt",   "apikey",   "bearer"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (has_word(name, bytes, words[i]))
            return true;
    return has_word(name, bytes, "key") && !has_word(name, bytes, "file");
}

/* Lines `name: value` and `NAME=value`, without the values of secrets; lines of another form are left out, but comments. */
static void add_without_secrets(struct sl_text *text, const char *data)
{
    for (const char *line = data; *line;) {
        size_t bytes = strcspn(line, "\n"), name = 0;
        while (name < bytes && (isalnum((unsigned char)line[name]) || strchr("-_\"' ", line[name])))
            name++;
        bool pair = name > 0 && name < bytes && (line[name] == ':' || line[name] == '=');
        if (pair && is_secret(line, name))
            sl_text_add(text, "%.*s%c (left out)\n", (int)name, line, line[name]);
        else if (pair)
            sl_text_add(text, "%.*s\n", (int)bytes, line);
        else if (bytes > 0)
            sl_text_add(text, "# (a line of another form was left out)\n");
        line += bytes + (line[bytes] == '\n');
    }
}

/* ---- parts ---- */

static sl_status add_text(struct bundle *b, const char *name, struct sl_text *text, struct sl_err *err)
{
    sl_status status = text->data ? sl_tar_add(&b->tar, name, text->data, text->bytes, err) : SL_OK;
    free(text->data);
    *text = (struct sl_text){0};
    return status;
}

static sl_status add_machine(struct bundle *b, struct sl_err *err)
{
    static const char *const facts[] = {"/etc/os-release",
                                        "/proc/cpuinfo",
                                        "/proc/meminfo",
                                        "/proc/loadavg",
                                        "/proc/uptime",
                                        "/proc/pressure/cpu",
                                        "/proc/pressure/memory",
                                        "/proc/pressure/io",
                                        "/proc/self/limits",
                                        "/proc/self/cgroup",
                                        "/proc/net/dev",
                                        "/proc/net/snmp",
                                        "/proc/sys/net/core/somaxconn",
                                        "/proc/sys/vm/overcommit_memory",
                                        "/sys/kernel/mm/transparent_hugepage/enabled",
                                        "/sys/devices/system/node/online",
                                        "/sys/devices/system/cpu/online",
                                        "/sys/fs/cgroup/cpu.max",
                                        "/sys/fs/cgroup/memory.max"};
    struct sl_text text = {0};
    struct utsname name;
    if (uname(&name) == 0)
        sl_text_add(&text, "%s %s %s %s\n%ld processors\n", name.sysname, name.release, name.version,
                    name.machine, sysconf(_SC_NPROCESSORS_ONLN));
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) {
        size_t bytes;
        char *data = read_end(facts[i], FACT_BYTES, &bytes);
        if (data)
            sl_text_add(&text, "\n== %s\n%s", facts[i], data);
        free(data);
    }
    return add_text(b, "machine.txt", &text, err);
}

static sl_status add_environment(struct bundle *b, struct sl_err *err)
{
    struct sl_text text = {0}, ours = {0};
    for (char **variable = environ; *variable; variable++)
        if (strncmp(*variable, "SLUICE_", 7) == 0 || strncmp(*variable, "UCX_", 4) == 0)
            sl_text_add(&ours, "%s\n", *variable);
    sl_text_add(&text, "# SLUICE_ and UCX_ variables of whoever made this report\n");
    add_without_secrets(&text, ours.data ? ours.data : "");
    free(ours.data);
    return add_text(b, "environment.txt", &text, err);
}

static sl_status add_pages(struct bundle *b, uint32_t node, const char *address, struct sl_err *err)
{
    static const char *const pages[][2] = {
        {"/version", "version.json"},       {"/metrics", "metrics.txt"}, {"/readyz", "readyz.txt"},
        {"/startupz", "startupz.txt"},      {"/livez", "livez.txt"},     {"/debug/schedule", "schedule.json"},
        {"/debug/records", "records.jsonl"}};
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
        struct sl_http_reply reply;
        struct sl_err why;
        char name[80];
        if (sl_http_get(&reply, address, pages[i][0], TIMEOUT_MS, &why) != SL_OK) {
            sl_text_add(&b->notes, "node %u, %s: %s\n", node, pages[i][0], why.text);
            return SL_OK; /* the others would say the same */
        }
        if (reply.status != 200)
            sl_text_add(&b->notes, "node %u, %s: status %d\n", node, pages[i][0], reply.status);
        snprintf(name, sizeof name, "node-%u/%s", node, pages[i][1]);
        sl_status status = sl_tar_add(&b->tar, name, reply.body, reply.bytes, err);
        sl_http_reply_free(&reply);
        SL_TRY(status);
    }
    return SL_OK;
}

/* Files of a list, by commas: the ends of logs as they are, or options without secrets. */
static sl_status add_files(struct bundle *b, const char *list, const char *kind, bool options,
                           struct sl_err *err)
{
    uint32_t n = 0;
    for (const char *at = list; at && *at && n < MAX_FILES; n++) {
        size_t bytes = strcspn(at, ","), got;
        char path[4096], name[80];
        snprintf(path, sizeof path, "%.*s", (int)(bytes < sizeof path ? bytes : sizeof path - 1), at);
        at += bytes + (at[bytes] == ',');
        char *data = read_end(path, LOG_BYTES, &got);
        if (!data) /* who asked for it must know */
            return sl_fail(err, SL_E_IO, "cannot read %s: %s; give a file that there is, or leave it out",
                           path, strerror(errno));
        snprintf(name, sizeof name, "%s-%u.txt", kind, n);
        sl_text_add(&b->notes, "%s is %s\n", name, path);
        struct sl_text text = {0};
        if (options)
            add_without_secrets(&text, data);
        sl_status status =
            options ? add_text(b, name, &text, err) : sl_tar_add(&b->tar, name, data, got, err);
        free(data);
        SL_TRY(status);
    }
    return SL_OK;
}

static sl_status add_all(struct bundle *b, const struct report_values *v, const char *const *nodes,
                         uint32_t n, struct sl_err *err)
{
    sl_text_add(&b->notes, "sluice " SLUICE_VERSION " (" SLUICE_GIT ")\n");
    SL_TRY(add_machine(b, err));
    SL_TRY(add_environment(b, err));
    for (uint32_t i = 0; i < n; i++) {
        sl_text_add(&b->notes, "node %u is %s\n", i, nodes[i]);
        SL_TRY(add_pages(b, i, nodes[i], err));
    }
    SL_TRY(add_files(b, v->options, "options", true, err));
    SL_TRY(add_files(b, v->log, "log", false, err));
    return add_text(b, "report.txt", &b->notes, err);
}

static int run_report(const void *values, const char *const *args, uint32_t n_args)
{
    static const char *const usual[] = {"127.0.0.1:8081"};
    const struct report_values *v = values;
    struct bundle b = {0};
    struct sl_err err = {0};
    sl_status status = sl_tar_begin(&b.tar, v->to, sl_clock_wall_us() / 1000000u, &err);
    if (status == SL_OK) {
        status = add_all(&b, v, n_args > 0 ? args : usual, n_args > 0 ? n_args : 1, &err);
        if (status == SL_OK)
            status = sl_tar_end(&b.tar, &err);
        else
            sl_tar_drop(&b.tar);
    }
    free(b.notes.data);
    if (status != SL_OK)
        return sl_command_failed("report", &err);
    printf(
        "%s is the report: versions, machine, metrics, schedule, options, logs; look through it before you send it on\n",
        v->to);
    return 0;
}

const struct sl_command sl_command_report = {
    "report",
    "[OPS...]",
    "a bundle for whoever helps: versions, metrics, schedule, options, logs, machine",
    "Asks the ops ports OPS (HOST:PORT; 127.0.0.1:8081) for what they tell and writes a tar archive that its owner alone may read. There are "
    "names of requests and tenants in it, no prompts and no outputs. A node that does not answer is noted in report.txt. The "
    "log of a unit: journalctl -u sluice-coordinator >coordinator.log, and --log coordinator.log.",
    report_options,
    sizeof(struct report_values),
    0,
    MAX_NODES,
    run_report};
