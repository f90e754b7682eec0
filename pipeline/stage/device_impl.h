/* The two devices of this room, for stage.c and for each other: the CPU, and the late one, which is a CPU device behind a
 * wall. */
#ifndef SL_PIPELINE_STAGE_DEVICE_IMPL_H
#define SL_PIPELINE_STAGE_DEVICE_IMPL_H

#include "attention/attention.h"
#include "experts/experts.h"
#include "kernels/device.h"

extern const struct sl_device_ops sl_device_cpu;
extern const struct sl_device_ops sl_device_late;

struct device_cpu {
    struct sl_device device;
    struct sl_device_config config; /* n_threads: of the team; rope_inv_freq: below */
    const struct sl_ops *ops;
    struct sl_device_weights weights;
    struct sl_team *team;
    struct sl_arena arena; /* what the members below point into, and nothing else */
    struct sl_kv kv;
    struct sl_attention attention;
    struct sl_experts experts;
    struct sl_device_chunk chunk; /* begun, not finished */
    uint32_t n_left;              /* of its rows: all, until the last layer leaves some out */
    float *inv_freq, *cosine, *sine;
    float *head_normed, *logits;
    struct sl_rows8 head8; /* head_normed in s8, when the head is an integer matrix; second digits follow */
    const struct sl_observer *observer; /* or NULL */
};

/* The caller's memory, zeroed or finished. `ops` computes. The weights' views outlive it. */
sl_status sl_device_cpu_init(struct device_cpu *cpu, const struct sl_device_config *config,
                             const struct sl_device_weights *weights, const struct sl_ops *ops,
                             struct sl_err *err);
void sl_device_cpu_fini(struct device_cpu *cpu);
/* With these kernels. */
sl_status sl_device_cpu_bytes(struct sl_device_bytes *bytes, const struct sl_device_config *config,
                              const struct sl_ops *ops, struct sl_err *err);

#endif
