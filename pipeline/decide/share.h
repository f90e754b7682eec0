/* What a node is given of a model and of the work: the layers, the formats and the sizes that its memory is planned by. */
#ifndef SL_PIPELINE_DECIDE_SHARE_H
#define SL_PIPELINE_DECIDE_SHARE_H

#include "base/dtype.h"
#include "base/profile.h"

enum sl_device_kind { /* what runs the stage's chunks: kernels/device.h */
                      SL_DEVICE_CPU,
                      SL_DEVICE_CUDA, /* a GPU */
                      SL_DEVICE_TWIN, /* a GPU that is not there: its kernels and its driver as twins, slow */
                      SL_DEVICE_LATE /* stands in for a GPU, in tests: late, and deadly to whoever touches its memory */
};

struct sl_share {
    uint32_t begin, end; /* layers [begin, end) */
    bool with_embed, with_head;
    uint32_t n_threads;         /* this and the device are the node's own choice */
    enum sl_device_kind device; /* 0: the CPU */
    const char *which;          /* of them, as --device says; NULL: there is but one */
    enum sl_dtype kv_dtype;
    enum sl_profile profile; /* numerics; 0: f32 */
    uint32_t n_pages;        /* KV pool, in pages of 64 tokens */
    uint32_t max_tokens;     /* rows of a chunk */
    uint32_t max_sequences;
    uint32_t context_tokens; /* longest sequence */
    uint32_t n_places;       /* of chunks' rows that go from device to device; 0: none do */
    bool token_steps;        /* its chunks are those of a decode worker */
};

#endif
