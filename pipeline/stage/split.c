/* The pieces of split.h: a device's blocks, handed out. */
#include "pipeline/stage/split.h"
#include "pipeline/stage/device_impl.h"
#include <assert.h>

static struct device_cpu *cpu_of(struct sl_stage *stage)
{
    struct sl_device *device = sl_stage_device(stage);
    assert(device->ops == &sl_device_cpu);
    return (struct device_cpu *)(void *)device;
}

void sl_split_append(struct sl_stage *stage, uint32_t layer)
{
    struct device_cpu *d = cpu_of(stage);
    const struct sl_device_chunk *c = &d->chunk;
    sl_attention_append(&d->attention, &d->weights.layers[layer].attention, layer, (float *)c->rows.at,
                        c->n_rows, c->slices, c->n_slices, d->cosine, d->sine);
}

void sl_split_attend(struct sl_stage *stage, uint32_t layer)
{
    struct device_cpu *d = cpu_of(stage);
    const struct sl_device_chunk *c = &d->chunk;
    sl_attention_attend_appended(&d->attention, &d->weights.layers[layer].attention, layer,
                                 (float *)c->rows.at, c->n_rows, c->slices, c->n_slices);
}

struct sl_experts *sl_split_experts(struct sl_stage *stage)
{
    return &cpu_of(stage)->experts;
}

const struct sl_experts_weights *sl_split_weights(struct sl_stage *stage, uint32_t layer)
{
    return &cpu_of(stage)->weights.layers[layer].experts;
}
