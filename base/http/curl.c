/* libcurl by dlopen (curl.h): its table is filled once and never given back, since others may be in the middle of a call. */
#include "base/http/curl.h"
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

static const char *const file_name = "libcurl.so.4"; /* the interface since 2006 */

#define ROW(name)                                                                                            \
    {                                                                                                        \
        "curl_" #name, offsetof(struct sl_curl, name)                                                        \
    }
static const struct {
    const char *name;
    size_t at;
} rows[] = {
    ROW(easy_init),        ROW(easy_setopt),         ROW(easy_getinfo),    ROW(easy_perform),
    ROW(easy_reset),       ROW(easy_cleanup),        ROW(easy_strerror),   ROW(slist_append),
    ROW(slist_free_all),   ROW(multi_init),          ROW(multi_setopt),    ROW(multi_assign),
    ROW(multi_add_handle), ROW(multi_remove_handle), ROW(multi_info_read), ROW(multi_socket_action),
    ROW(multi_cleanup),
};
_Static_assert(sizeof rows / sizeof *rows * sizeof(void *) == sizeof(struct sl_curl), "a row each");

sl_status sl_curl_open_file(struct sl_curl *curl, const char *file, const char *wanted_by, struct sl_err *err)
{
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return sl_fail(err, SL_E_UNAVAILABLE,
                       "%s needs libcurl, which cannot be opened (%.200s): install libcurl4", wanted_by,
                       dlerror());
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        void *found = dlsym(library, rows[i].name);
        if (!found)
            return sl_fail(err, SL_E_UNAVAILABLE, "%s needs libcurl, and %s has no %s: install libcurl4",
                           wanted_by, file, rows[i].name);
        memcpy((char *)curl + rows[i].at, &found, sizeof found);
    }
    return SL_OK;
}

static struct sl_curl table;
static sl_status opened;

static void open_once(void)
{
    struct sl_err err;
    opened = sl_curl_open_file(&table, file_name, "this", &err);
    if (opened != SL_OK)
        return;
    CURLcode (*global_init)(long) = NULL;
    void *found = dlsym(dlopen(file_name, RTLD_NOW | RTLD_LOCAL), "curl_global_init");
    memcpy(&global_init, &found, sizeof found);
    if (!found || global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        opened = SL_E_UNAVAILABLE;
}

sl_status sl_curl_open(const struct sl_curl **curl, const char *wanted_by, struct sl_err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_once);
    if (opened == SL_OK) {
        *curl = &table;
        return SL_OK;
    }
    struct sl_curl again;
    sl_status status = sl_curl_open_file(&again, file_name, wanted_by, err); /* for its sentence */
    return status != SL_OK ? status
                           : sl_fail(err, opened, "%s needs libcurl, which does not start", wanted_by);
}
