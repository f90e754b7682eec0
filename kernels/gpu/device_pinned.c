/* Memory of the host that a GPU reads and writes by itself (device_impl.h): the device's own, and that of others where frames lie.
 * From there rows go and come without another copy; what cannot be pinned, or is one too many, goes by way of the device's own. */
#include "base/log.h"
#include "kernels/gpu/device_impl.h"
#include <assert.h>

sl_status gpu_pin(const struct device_gpu *d, void **memory, size_t bytes, struct sl_err *err)
{
    sl_cu_result result = d->cuda->host_alloc(memory, bytes, 0);
    if (result == SL_CU_OUT_OF_MEMORY)
        return sl_fail(err, SL_E_UNAVAILABLE,
                       "no %.2f GiB of memory can be pinned for a GPU: see `ulimit -l`",
                       (double)bytes / 0x1p30);
    return sl_cu_check(d->cuda, result, "pinning memory", err);
}

bool gpu_is_lent(const struct device_gpu *d, const void *at, size_t bytes)
{
    const uint8_t *from = at;
    for (uint32_t i = 0; i < d->n_lent; i++)
        if (from >= d->lent[i].at && from + bytes <= d->lent[i].at + d->lent[i].bytes)
            return true;
    return false;
}

void gpu_lend(struct sl_device *device, void *memory, size_t bytes)
{
    struct device_gpu *d = gpu_of(device);
    struct sl_err err;
    if (d->n_lent == GPU_LENT)
        return;
    gpu_enter(d);
    sl_status status = sl_cu_check(d->cuda, d->cuda->host_register(memory, bytes, 0), "pinning frames", &err);
    if (status == SL_OK)
        d->lent[d->n_lent++] = (struct gpu_lent){memory, bytes};
    else
        sl_log_warn(
            "%.1f MiB of frames are copied once more on their way to the GPU and back: %s; see `ulimit -l`",
            (double)bytes / 0x1p20, err.text);
}

void gpu_take_back(struct sl_device *device, void *memory)
{
    struct device_gpu *d = gpu_of(device);
    uint32_t i = 0;
    while (i < d->n_lent && d->lent[i].at != memory)
        i++;
    if (i == d->n_lent)
        return;
    gpu_enter(d);
    gpu_idle(d); /* the driver would wait by itself, and without an end */
    gpu_check(d, d->cuda->host_unregister(memory), "giving frames back");
    d->lent[i] = d->lent[--d->n_lent];
}
