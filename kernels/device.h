/* A device: what runs a stage's chunks, and the memory it runs them in. One dispatch table per kind:
 *
 *   cpu    pipeline/stage/device_cpu.c    the worker team over attention/ and experts/; in place
 *   late   pipeline/stage/device_late.c   tries who uses a device: memory that kills a host which touches it, work that is done
 *                                         as late as the events allow, computed with the reference kernels
 *   cuda   kernels/gpu/device.c           a GPU, by NVIDIA's driver
 *   twin   kernels/gpu/device.c           a GPU that is not there: its kernels and its driver as twins, by the code that works
 *                                         with a real one
 *
 * The grain. A call is a block of a layer over a whole chunk (attention; router and experts), for two reasons. First,
 * between blocks, and only there, rows are f32 in one defined place, so bits can be compared there, whoever computed them.
 * Inside, each device fuses what suits it: the CPU lets whoever made a row quantise it for the next product, and cuts
 * tasks by the route that it has just made; a GPU runs norm + rotate + quantise, q|k|v, qk-norm + rope + append + quantise,
 * attend, merge, output product | norm + quantise + router, choose, group, grouped gate|up, quantise, grouped down, with
 * the route and the task list made on the device. Calls per step would make a contract of the layouts of ten temporaries
 * that no two devices want alike, and calls per matrix or row (isa.h) cannot be implemented by a GPU at all. Second, no
 * call needs the host to look at a result before the next one can be issued: a chunk is one straight list of calls.
 * What one block leaves for the next to do (sums of experts that ride in the next norm) stays the device's own affair:
 * rows are whole after `finish`.
 *
 * Bits. A device gives those of kernels/ref under the numerics profile of its config, for any chunking and any
 * neighbours: stages of different kinds form one pipeline. Cosines and sines are the host library's
 * (sl_rope_row): a device with a mathematics library of its own takes a table that the host has made.
 *
 * Memory. All of it is planned by `bytes`, taken by `create`, then sealed: no other call allocates.
 *   weights   the views of sl_device_weights, known by their layer
 *   pages     a slot of the KV pool is [layer][kv head]{K | V} (page.h; each rounded up to a cache line), the layers of
 *             this stage, the same bytes on every device: what is pushed to a decode worker is what lies there
 *   rows      buffers of [rows][d_model] f32
 * They are told apart from the host's memory by their type: an sl_device_at cannot be dereferenced, only copied to and
 * from. A device that is `in_place` works where the host has things: its sl_device_at are the host's addresses, its rows
 * lie in the frame they came in, its pages leave from where they lie, and its weights are the mapped files. Then copies
 * of a place to itself are nothing, so the same list of calls costs it nothing. To any other its weights are brought, piece
 * by piece, and the host has no memory with all of them.
 *
 * The last layer. Who wants nothing of a row but its K and V (a prompt's tokens but the last, behind the last layer of the
 * model) need not pay for what else the last layer would make of it. Each slice says of how many rows, from its first one
 * on, that is so (kv_only): the device's last layer appends their K and V, and leaves out q, attend, the output product and
 * the feed-forward. Behind it, the rows that are left lie one behind the other from the chunk's first row on, in their
 * order and with the bits that they have in any company; what lies behind them is undefined.
 *
 * Order. Calls are asynchronous: they are appended to one of three queues, each of which runs its calls in order.
 *   SL_QUEUE_IN       copy_in, clear
 *   SL_QUEUE_COMPUTE  embed, begin, attention, experts, finish, logits
 *   SL_QUEUE_OUT      copy_out
 * Nothing else orders queues with each other or with the host: an event does. `record` puts an event behind all that the
 * queue has been given so far; what `await` appends to another queue holds that one up until the event has come; `wait`
 * holds up the host. Recording again forgets the earlier place; awaiting an event that was never recorded is the caller's
 * mistake. Whose memory is whose, until an event says otherwise:
 *   copy_in    the host's bytes must stay as they are until an event behind the copy has come
 *   copy_out   the host's bytes are undefined until then
 *   slices and page lists of a chunk stay until `finish` has been called; ids may go when `embed` has returned
 * A device that is in place has done the work when the call returns; its record, await and wait do nothing.
 *
 * Errors: `bytes` and `create` fail with a sentence. After that there are none to return: a device that stops working
 * (memory error, a launch that does not end) has lost its pages with it, says so once and ends the process, which the
 * coordinator sees as the loss of a stage.
 *
 * Threads: all calls come from the thread of the stage that created the device, but those of the table that `links` gives; what it
 * starts itself is its affair. */
#ifndef SL_KERNELS_DEVICE_H
#define SL_KERNELS_DEVICE_H

#include "base/lanes.h"
#include "base/profile.h"
#include "base/rows_device.h"
#include "base/status.h"
#include "kernels/blocks.h"
#include "kernels/observe.h"
#include "kernels/parts.h"
#include "kernels/roofline.h"

struct sl_device_at { /* an address in the device's memory */
    uintptr_t at;
};
static inline struct sl_device_at sl_device_after(struct sl_device_at from, size_t bytes)
{
    return (struct sl_device_at){from.at + bytes};
}

enum sl_device_queue { SL_QUEUE_IN, SL_QUEUE_COMPUTE, SL_QUEUE_OUT, SL_QUEUES };
enum {
    SL_DEVICE_EVENTS = 8,  /* that a caller may have, by number */
    SL_DEVICE_BUFFERS = 2, /* of rows, by number: one may be filled while the other is worked on */
};

struct sl_device_config {
    struct sl_attention_dims attention;
    struct sl_experts_dims experts;
    const float *rope_inv_freq; /* [d_head / 2], read by create */
    float rope_factor;          /* of cosines and sines */
    uint32_t n_layers, vocab;
    bool with_embed, with_head;
    enum sl_dtype kv_dtype;
    enum sl_profile profile;
    uint32_t n_pages;    /* slots of the KV pool */
    uint32_t max_pages;  /* of one sequence */
    uint32_t max_tokens; /* rows of a chunk */
    uint32_t max_slices; /* of a chunk */
    uint32_t head_rows;  /* of one call of logits */
    bool
        token_steps; /* chunks have one row a slice, nearly all of them: what runs such may be made by create */
    uint32_t n_threads; /* of the host, for a device that computes there */
    uint32_t n_places;  /* of rows [max_tokens][d_model] that come and go from device to device; 0: none do */
    const char *which;  /* of several of its kind, as --device says; read by create; NULL: it has only one */
};

/* Who brings weights to a device with memory of its own. */
struct sl_device_source {
    size_t piece; /* bytes that `next` brings at most */
    /* The next bytes, checked, to `to`. *from: the address that stands for the first of them; none stands twice. *bytes 0: there are
     * no more. Fails with a sentence. */
    sl_status (*next)(void *arg, void *to, const void **from, size_t *bytes, struct sl_err *err);
    void *arg;
};

/* In place: in the host's memory, used there, and outlive the device. Else nothing lies at these addresses, which stand for the bytes
 * that the source brings while create runs. */
struct sl_device_weights {
    const struct sl_layer_blocks *layers; /* [n_layers] */
    const void *embed;                    /* [vocab][d_model] f32 or bf16; with_embed */
    enum sl_dtype embed_dtype;
    const float *final_norm; /* these two: with_head */
    struct sl_panel head;
    struct sl_device_source source; /* unless in place */
};

struct sl_device_bytes { /* beside the weights */
    size_t kv, activations, tables, scratch, logits;
    size_t
        own; /* of these, what lies in the device's own memory, where the weights go, too; 0: it has none */
    size_t pinned; /* of these, what lies in the host's and may not be moved */
};

struct sl_device_chunk {
    struct sl_device_at
        rows; /* [n_rows][d_model] f32, the residual stream, in and, as far as it is wanted, out */
    uint32_t n_rows, n_slices;
    const struct sl_attention_slice *slices; /* one behind the other, all rows */
    uint64_t
        predicted_us; /* that it takes; 0: nobody knows. A device whose work is late gives up long after */
};

/* One among several of its kind, as its makers' tools and the kernel's log name it. */
struct sl_device_identity {
    char name[96], uuid[41], bus[32];
};

struct sl_device_ops;
struct sl_device { /* the head of every kind's own struct */
    const struct sl_device_ops *ops;
};

struct sl_device_ops {
    const char *name; /* "cpu" */
    bool in_place;

    /* Pure. SL_E_CONFIG: the device cannot run this, or it does not fit the address space (kv is SIZE_MAX then). */
    sl_status (*bytes)(struct sl_device_bytes *bytes, const struct sl_device_config *config,
                       struct sl_err *err);
    sl_status (*create)(struct sl_device **device, const struct sl_device_config *config,
                        const struct sl_device_weights *weights, struct sl_err *err);
    void (*destroy)(struct sl_device *device);          /* whatever is queued; NULL is fine */
    const char *(*isa)(const struct sl_device *device); /* what it computes with, for people: "avx512vnni" */
    /* Which one it is; NULL where there is one of its kind. Any thread. */
    void (*identify)(const struct sl_device *device, struct sl_device_identity *identity);

    /* Places. rows: buffer 0 or 1, for [max_tokens, but at least head_rows][d_model]; in place it is `host` itself. */
    struct sl_device_at (*rows)(const struct sl_device *device, uint32_t buffer, float *host);
    struct sl_device_at (*page)(const struct sl_device *device, uint32_t slot);

    /* Memory of the host that copies will often come from and go to: a GPU reaches it by itself then. Until it is taken back, when
     * nothing is under way there, or the device is gone. NULL, both: it makes no difference. */
    void (*lend)(struct sl_device *device, void *memory, size_t bytes);
    void (*take_back)(struct sl_device *device, void *memory);

    void (*copy_in)(struct sl_device *device, struct sl_device_at to, const void *from, size_t bytes);
    void (*copy_out)(struct sl_device *device, void *to, struct sl_device_at from, size_t bytes);
    void (*clear)(struct sl_device *device, uint32_t slot); /* a page, to zeros */

    void (*record)(struct sl_device *device, uint32_t event, enum sl_device_queue queue);
    void (*await)(struct sl_device *device, enum sl_device_queue queue, uint32_t event);
    void (*wait)(struct sl_device *device, uint32_t event);

    /* rows[i] = embedding of ids[i]; ids: little-endian u32 at any alignment, each below vocab, in the host's memory. */
    void (*embed)(struct sl_device *device, struct sl_device_at rows, const uint8_t *ids, uint32_t n);

    /* One chunk: begin, then for each layer attention and experts, then finish. Layers count from 0 within the stage.
     * begin: the rows' positions become cosines and sines. It may hold up the host for the chunk before this one.
     * attention: norm, q|k|v, bias, q/k norm, rope, append to the pages, attend, output product, onto the rows.
     * experts: norm, then dense, or router, top-k, grouped experts, combine, and the shared expert, onto the rows. */
    void (*begin)(struct sl_device *device, const struct sl_device_chunk *chunk);
    void (*attention)(struct sl_device *device, uint32_t layer);
    void (*experts)(struct sl_device *device, uint32_t layer);
    void (*finish)(struct sl_device *device);

    /* Final norm and head of n <= head_rows rows: where [n][vocab] f32 are going to lie until the next call. The rows
     * themselves stay as they are. */
    struct sl_device_at (*logits)(struct sl_device *device, struct sl_device_at rows, uint32_t n);

    /* Rows that come and go from device to device, never by way of the host (base/rows_device.h); NULL, or a table for as long as the
     * device lives, if its config has places for them. A chunk may have its rows in a place, as in a buffer. */
    const struct sl_rows_device *(*links)(struct sl_device *device);
    /* Adds what these rows count for in a checksum by lanes (base/lanes.h) of a whole in which they begin at byte `at`; both are
     * multiples of 16. Waits for all of the compute queue; from then on rows of a place may leave. */
    void (*seal)(struct sl_device *device, struct sl_device_at rows, size_t bytes, uint64_t at,
                 struct sl_lane_sums *sums);

    /* From now on the observer, which must outlive it, sees the rows that go into every matrix; NULL: nobody. The entry is
     * NULL where the host cannot see them. */
    void (*observe)(struct sl_device *device, const struct sl_observer *observer);
    /* Since create: time and work by part, of calls that have been waited for. */
    void (*parts)(const struct sl_device *device, struct sl_parts *sum);
    /* What it can do at most, as its maker says, where times of parts are those of one queue. All zeros: not known, or no figure, as of
     * a GPU that is a twin. NULL: it computes with the host's threads, each of which has times of its own. */
    void (*roofline)(const struct sl_device *device, struct sl_roofline *roofline);
};

/* cosine, sine [half] of a position: the angle is rounded to f32 first, as the published models were trained. */
void sl_rope_row(float *cosine, float *sine, const float *inv_freq, uint32_t half, float factor,
                 uint32_t pos);

/* Weights on their way into a device's own memory, where the parts lie one behind the other. */
struct sl_device_inflow {
    const struct sl_device_weights *weights; /* as create has them */
    const struct sl_device_config *config;
    struct sl_layer_blocks *layers; /* room for n_layers; not the weights' */
    size_t aligned;                 /* each part lies at a multiple of so many bytes */
};
size_t sl_device_weights_bytes(const struct sl_device_inflow *inflow); /* that they take there */
/* What a device computes with: the same weights as they lie from `base` on; `layers` become theirs. */
struct sl_device_weights sl_device_weights_at(const struct sl_device_inflow *inflow, uintptr_t base);
/* Of bytes that the source has brought those that are weights: `put` for each stretch, `after` bytes behind the base. The sum of all
 * that were put is added to *n_put. */
typedef void sl_device_put(void *arg, size_t after, const uint8_t *bytes, size_t n);
void sl_device_weights_put(const struct sl_device_inflow *inflow, const void *from, const uint8_t *bytes,
                           size_t n, sl_device_put *put, void *arg, size_t *n_put);
/* SL_E_INTERNAL: the source has brought fewer than there are. */
sl_status sl_device_weights_came(const struct sl_device_inflow *inflow, size_t n_put, struct sl_err *err);

#endif
