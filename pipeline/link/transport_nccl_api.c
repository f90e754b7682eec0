/* NCCL by dlopen (transport_nccl_api.h). It is never closed: it has threads of its own. */
#include "pipeline/link/transport_nccl_api.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROW(field, name)                                                                                     \
    {                                                                                                        \
        name, offsetof(struct sl_nccl, field)                                                                \
    }
static const struct {
    const char *name;
    size_t at;
} rows[] = {
    ROW(get_version, "ncclGetVersion"),
    ROW(get_error_string, "ncclGetErrorString"),
    ROW(get_unique_id, "ncclGetUniqueId"),
    ROW(comm_init_rank_config, "ncclCommInitRankConfig"),
    ROW(comm_get_async_error, "ncclCommGetAsyncError"),
    ROW(comm_abort, "ncclCommAbort"),
    ROW(send, "ncclSend"),
    ROW(recv, "ncclRecv"),
};
_Static_assert(sizeof rows / sizeof *rows * sizeof(void *) == sizeof(struct sl_nccl), "a row each");

void sl_nccl_version_text(int version, char text[24])
{
    snprintf(text, 24, "%d.%d.%d", version / 10000, version / 100 % 100, version % 100);
}

/* Before 2.9 a version was a digit shorter: 2804. */
static sl_status judge(int version, const char *file, struct sl_err *err)
{
    char text[24];
    if (version < 10000)
        return sl_fail(err, SL_E_UNAVAILABLE,
                       "%s is NCCL of version code %d, and rows by NCCL need 2.18 or a later 2.x: install "
                       "libnccl2, or choose --rows staged",
                       file, version);
    sl_nccl_version_text(version, text);
    if (version / 10000 != 2 || version < SL_NCCL_CONFIG_VERSION)
        return sl_fail(
            err, SL_E_UNAVAILABLE,
            "%s is NCCL %s, and rows by NCCL need 2.18 or a later 2.x: install libnccl2, or choose "
            "--rows staged",
            file, text);
    return SL_OK;
}

static const char *file_name(void)
{
    const char *named = getenv("SLUICE_NCCL");
    return named && *named ? named : "libnccl.so.2";
}

bool sl_nccl_is_twin(void)
{
    void *library = dlopen(file_name(), RTLD_NOW | RTLD_LOCAL);
    return library && dlsym(library, "nccl_twin_fault");
}

sl_status sl_nccl_open(struct sl_nccl *nccl, int *version, struct sl_err *err)
{
    const char *file = file_name();
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return sl_fail(
            err, SL_E_UNAVAILABLE,
            "rows by NCCL need its library, which cannot be opened (%.200s): install libnccl2, name it by "
            "SLUICE_NCCL, or choose --rows staged",
            dlerror());
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        void *found = dlsym(library, rows[i].name);
        if (!found)
            return sl_fail(
                err, SL_E_UNAVAILABLE,
                "%s has no %s, so it is not NCCL 2.18 or later: install libnccl2, or choose --rows "
                "staged",
                file, rows[i].name);
        memcpy((char *)nccl + rows[i].at, &found, sizeof found);
    }
    *version = 0;
    int result = nccl->get_version(version);
    if (result != SL_NCCL_SUCCESS)
        return sl_fail(err, SL_E_UNAVAILABLE, "%s does not tell its version (%s): install libnccl2 anew",
                       file, nccl->get_error_string(result));
    return judge(*version, file, err);
}
