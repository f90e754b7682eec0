/* The waiting of device_wait.h: the CPU's device, whose memory and pages it has, with the calls that compute replaced. */
#include "pipeline/stage/device_wait.h"
#include "base/clock.h"
#include "pipeline/stage/device_impl.h"
#include <string.h>
#include <time.h>

static struct sl_cost waited;
static struct sl_device_ops wait_ops;
static bool waits;
static _Thread_local uint64_t began_ns; /* of the chunk: a stage has a thread of its own */

static struct device_cpu *cpu_of(struct sl_device *device)
{
    return (struct device_cpu *)(void *)device;
}

static sl_status wait_create(struct sl_device **device, const struct sl_device_config *config,
                             const struct sl_device_weights *weights, struct sl_err *err)
{
    SL_TRY(sl_device_cpu.create(device, config, weights, err));
    (*device)->ops = &wait_ops;
    return SL_OK;
}

static const char *wait_isa(const struct sl_device *device)
{
    (void)device;
    return "nothing: it waits";
}

static void wait_embed(struct sl_device *device, struct sl_device_at rows, const uint8_t *ids, uint32_t n)
{
    (void)ids;
    memset((void *)rows.at, 0, (size_t)n * cpu_of(device)->config.attention.d_model * sizeof(float));
}

static void wait_begin(struct sl_device *device, const struct sl_device_chunk *chunk)
{
    began_ns = sl_clock_ns();
    cpu_of(device)->chunk = *chunk;
}

static void wait_layer(struct sl_device *device, uint32_t layer)
{
    (void)device, (void)layer;
}

static void wait_finish(struct sl_device *device)
{
    const struct device_cpu *d = cpu_of(device);
    struct sl_cost_chunk sum = {0};
    for (uint32_t i = 0; i < d->chunk.n_slices; i++) {
        const struct sl_attention_slice *slice = &d->chunk.slices[i];
        sl_cost_add(&sum, slice->pos, slice->n);
        if (d->config.with_head)
            sl_cost_want(&sum, slice->n - slice->kv_only);
    }
    uint64_t until_ns = began_ns + (uint64_t)(1000 * sl_cost_of(&waited, &sum));
    struct timespec until = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0)
        ;
}

/* All ids are as likely as each other. */
static struct sl_device_at wait_logits(struct sl_device *device, struct sl_device_at rows, uint32_t n)
{
    struct device_cpu *d = cpu_of(device);
    (void)rows;
    memset(d->logits, 0, (size_t)n * d->config.vocab * sizeof(float));
    return (struct sl_device_at){(uintptr_t)d->logits};
}

void sl_stage_waits(const struct sl_cost *cost)
{
    waited = *cost;
    wait_ops = sl_device_cpu;
    wait_ops.name = "wait";
    wait_ops.create = wait_create;
    wait_ops.isa = wait_isa;
    wait_ops.embed = wait_embed;
    wait_ops.begin = wait_begin;
    wait_ops.attention = wait_ops.experts = wait_layer;
    wait_ops.finish = wait_finish;
    wait_ops.logits = wait_logits;
    waits = true;
}

bool sl_stage_waited(struct sl_cost *cost)
{
    *cost = waited;
    return waits;
}

const struct sl_device_ops *sl_device_wait(void)
{
    return waits ? &wait_ops : NULL;
}
