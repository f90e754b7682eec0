/* What every role says about itself in /metrics: its build, and what it takes of the machine.
 *
 * The names are those of Prometheus' client libraries (process_*), so that existing dashboards
 * work. jemalloc is asked for its own statistics: they tell memory in use from memory kept. */
#include "base/metric.h"
#include "node/edge/admin_http.h"
#include <dirent.h>
#ifndef SLUICE_SYSTEM_ALLOCATOR /* a sanitizer brings its own */
#include <jemalloc/jemalloc.h>
#endif
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef SLUICE_SYSTEM_ALLOCATOR
/* jemalloc reads it at its start. What a flood took is given back by a thread of its own: without one, pages wait for the next
 * allocation of the thread that freed them, which after a flood may never come. */
__attribute__((visibility("default"))) const char *malloc_conf = "background_thread:true";
#endif

static void gauge(struct sl_text *text, const char *name, const char *help, double value)
{
    sl_metric_head(text, "gauge", name, help);
    sl_text_add(text, "%s %.17g\n", name, value);
}

static uint64_t resident_bytes(void)
{
    unsigned long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file)
        return 0;
    if (fscanf(file, "%lu %lu", &pages, &resident) != 2)
        resident = 0;
    fclose(file);
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint32_t open_files(void)
{
    uint32_t n = 0;
    DIR *folder = opendir("/proc/self/fd");
    if (!folder)
        return 0;
    while (readdir(folder))
        n++;
    closedir(folder);
    return n > 3 ? n - 3 : 0; /* ".", ".." and the folder's own */
}

static double cpu_seconds(void)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return 0;
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

/* When it began, as seconds since 1970: from the boot, as the kernel keeps it, and the time of the boot. 0: not known. */
static double start_seconds(void)
{
    char text[1024] = "", line[256];
    unsigned long long ticks = 0, boot = 0;
    FILE *file = fopen("/proc/self/stat", "re");
    size_t n = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file)
        fclose(file);
    text[n] = 0;
    const char *at = strrchr(text, ')'); /* behind its name, which may hold anything */
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    file = at && sscanf(at, "%llu", &ticks) == 1 ? fopen("/proc/stat", "re") : NULL;
    while (file && fgets(line, sizeof line, file) && sscanf(line, "btime %llu", &boot) != 1)
        ;
    if (file)
        fclose(file);
    return boot ? (double)boot + (double)ticks / (double)sysconf(_SC_CLK_TCK) : 0;
}

static void allocator_metrics(struct sl_text *text)
{
#ifdef SLUICE_SYSTEM_ALLOCATOR
    (void)text;
#else
    static const struct {
        const char *key, *name, *help;
    } kinds[] = {
        {"stats.allocated", "sluice_jemalloc_allocated_bytes", "Bytes in use by the process."},
        {"stats.active", "sluice_jemalloc_active_bytes", "Bytes in pages with something in use."},
        {"stats.resident", "sluice_jemalloc_resident_bytes", "Bytes that the allocator holds in memory."},
        {"stats.retained", "sluice_jemalloc_retained_bytes", "Bytes of address space kept for reuse."},
    };
    uint64_t epoch = 1; /* a new epoch refreshes the statistics */
    size_t bytes = sizeof epoch;
    mallctl("epoch", &epoch, &bytes, &epoch, bytes);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t value = 0, value_bytes = sizeof value;
        if (mallctl(kinds[i].key, &value, &value_bytes, NULL, 0) == 0)
            gauge(text, kinds[i].name, kinds[i].help, (double)value);
    }
#endif
}

void sl_process_metrics(struct sl_text *text)
{
    sl_metric_head(text, "info", "sluice_build", "What is running.");
    sl_text_add(text, "sluice_build_info{version=\"%s\",git=\"%s\"} 1\n", SLUICE_VERSION, SLUICE_GIT);
    sl_metric_head(text, "counter", "process_cpu_seconds", "Processor time of all threads.");
    sl_text_add(text, "process_cpu_seconds_total %.6f\n", cpu_seconds());
    gauge(text, "process_start_time_seconds", "When the process began, since 1970.", start_seconds());
    gauge(text, "process_resident_memory_bytes", "Resident memory.", (double)resident_bytes());
    gauge(text, "process_open_fds", "Open file descriptors.", (double)open_files());
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        gauge(text, "process_max_fds", "Limit on open file descriptors.", (double)limit.rlim_cur);
    allocator_metrics(text);
}
