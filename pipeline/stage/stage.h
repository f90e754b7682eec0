/* A stage: a contiguous layer range with all its experts resident, the KV pages of the sequences that pass through it,
 * and the scratch to run one chunk. The only place that composes attention, router and experts; the only layer loop.
 * A decode worker is a stage over all layers whose pages arrive by hand-off. Weights, pages and rows are with a device
 * (kernels/device.h; sl_share says which kind): nobody outside the stage holds an address of its memory.
 *
 * Knows no network and no request; reads the clock to say where the time went, never to decide. All functions: the stage's
 * own thread. Memory is planned by sl_stage_bytes, taken in sl_stage_create, then sealed; running a chunk allocates nothing. */
#ifndef SL_PIPELINE_STAGE_STAGE_H
#define SL_PIPELINE_STAGE_STAGE_H

#include "base/lanes.h"
#include "base/rows_device.h"
#include "kernels/observe.h"
#include "kernels/roofline.h"
#include "kernels/team.h"
#include "model/pack/scrub.h"
#include "pipeline/decide/cost.h"
#include "pipeline/decide/plan.h"
#include "pipeline/decide/sequences.h"

struct sl_stage_bytes { /* bytes, before anything is taken: what `inspect --stages` prints */
    size_t weights, kv, activations, tables, scratch, logits;
    size_t buffers; /* everything but the weights */
    size_t device;  /* of all this, what lies in the memory of a GPU */
    size_t
        pinned; /* and in the host's, but may not be moved: it counts against `ulimit -l`, as its frames do */
};
/* SL_E_CONFIG when the sum does not fit. */
sl_status sl_stage_bytes(struct sl_stage_bytes *plan, const struct sl_pack *pack,
                         const struct sl_share *config, struct sl_err *err);

struct sl_chunk_slice { /* rows of positions [pos, pos + n) of one sequence */
    struct sl_sequence *sequence;
    uint32_t pos, n;
    /* Behind the model's last layer nothing is wanted of its first so many rows: of them that layer makes K and V and no
     * more. Not for a stage whose rows go on to another one. */
    uint32_t kv_only;
};

struct sl_chunk { /* what a stage runs: slices, and their rows side by side */
    uint32_t n_tokens, n_slices;
    struct sl_chunk_slice slices[SL_MAX_BATCH];
    float *x; /* [n_tokens][d_model], hidden state in and out */
    /* out: without those of kv_only, the others one behind the other; what lies behind them is undefined */
    bool came, stay; /* the rows lie in the device's place for x, and not at x, in; out (sl_share.n_places) */
};

struct sl_stage;
/* Loads the weights as `load` says (NULL: mapped and verified fast; by as many threads as the stage has), takes the memory,
 * starts the team. The pack outlives the stage. */
sl_status sl_stage_create(struct sl_stage **stage, const struct sl_pack *pack, const struct sl_share *config,
                          const struct sl_loading *load, struct sl_err *err);
struct sl_device_ops;
/* A stage of that shape without weights, on a device that computes what it likes: for the simulator. A device that is in place. */
sl_status sl_stage_create_bare(struct sl_stage **stage, const struct sl_shape *shape,
                               const struct sl_share *config, const struct sl_device_ops *device,
                               struct sl_err *err);
/* Its device, whose own the caller made the stage with. */
struct sl_device *sl_stage_device(const struct sl_stage *stage);
void sl_stage_destroy(struct sl_stage *stage);

/* From now on a scrubber (model/pack/scrub.h) looks after the weights, until the stage is destroyed. Once. */
sl_status sl_stage_watch(struct sl_stage *stage, const struct sl_scrub_config *config, struct sl_err *err);
/* Its callback is not called any more when this returns; sl_stage_found has forgotten. */
void sl_stage_unwatch(struct sl_stage *stage);
/* Weights are not what was loaded any more: nothing that was computed with them may leave. Two loads; any thread. */
bool sl_stage_spoiled(const struct sl_stage *stage);
/* What was found; NULL: nothing, or not yet. Any thread. */
const struct sl_spoiled *sl_stage_found(const struct sl_stage *stage);

const struct sl_shape *sl_stage_shape(const struct sl_stage *stage);
const struct sl_share *sl_stage_share(const struct sl_stage *stage);
struct sl_device_identity; /* kernels/device.h */
const char *sl_stage_isa(const struct sl_stage *stage);
/* Returns what --device calls its kind, "cpu" or "cuda". identity: "" where there is but one. Any thread. */
const char *sl_stage_identify(const struct sl_stage *stage, struct sl_device_identity *identity);
uint64_t sl_stage_weight_bytes(const struct sl_stage *stage);
/* Of the layers' weights: what a chunk reads whatever its rows, and all routed experts, of which it reads those that it hits; and the
 * head, for whose logits are wanted. */
struct sl_stage_reads {
    uint64_t always, routed, head;
};
struct sl_stage_reads sl_stage_reads_of(const struct sl_stage *stage);

/* Who owns which of the stage's pages. Whoever runs the stage changes it; a page that becomes fresh is cleared by
 * sl_stage_clear, which has the type of sl_sequences_apply's callback. */
struct sl_sequences *sl_stage_sequences(struct sl_stage *stage);
void sl_stage_clear(void *stage, uint32_t page);
/* For who runs a stage alone, without a log: pages for positions [0, n_tokens), whichever are free. SL_E_EXHAUSTED. */
sl_status sl_stage_reserve(struct sl_stage *stage, struct sl_sequence *sequence, uint32_t n_tokens);

/* Pages of the pool, by number. A page is [layer of the range][kv head]{K | V} (kernels/page.h), the same bytes on every
 * device. */
size_t sl_stage_page_bytes(const struct sl_stage *stage);
/* The bytes of a page, whole: from where they lie on the CPU; from a device, copied to a place that the page has in the
 * host's memory. They stay until something is appended to the page, or it is cleared. */
const uint8_t *sl_stage_page_out(struct sl_stage *stage, uint32_t page);
/* Layers [layer_first, layer_first + layer_count) of the model into a page; `bytes` is free again when it returns. */
void sl_stage_page_in(struct sl_stage *stage, uint32_t page, uint32_t layer_first, uint32_t layer_count,
                      const uint8_t *bytes);

/* Memory that rows and pages will often lie in, when it is taken, and before it is given back: frames of links, which a GPU then reads
 * and writes where they are. */
void sl_stage_frames(struct sl_stage *stage, void *memory, size_t bytes, bool taken);

/* x[row] = embedding of ids[row]; ids little-endian u32 at any alignment. The rows may be left on the device, so what
 * follows is sl_stage_run of the same chunk. */
void sl_stage_embed(struct sl_stage *stage, struct sl_chunk *chunk, const uint8_t *ids);
/* What carries the rows of chunks that `came` or `stay`; NULL: the stage has no place for such. */
const struct sl_rows_device *sl_stage_links(const struct sl_stage *stage);
/* Adds what n rows count for that lie in the device's place for x, in a checksum by lanes of a frame in which they begin at byte `at`,
 * a multiple of 16. Those of a chunk that stays may leave when this has returned. */
void sl_stage_sum_rows(struct sl_stage *stage, const float *x, uint32_t n, uint64_t at,
                       struct sl_lane_sums *sums);
/* Every layer of the range over the chunk. Pages for all its positions have been reserved. */
void sl_stage_run(struct sl_stage *stage, struct sl_chunk *chunk);
/* Final norm and head for n rows of x (n <= sl_stage_head_rows): returns [n][vocab], the caller may change it, valid until the next call. */
float *sl_stage_logits(struct sl_stage *stage, const float *x, uint32_t n);
uint32_t sl_stage_head_rows(const struct sl_stage *stage);
/* What chunks take, where it is known: a device whose work is late gives up a chunk that takes several times as long. Until then a GPU's
 * are given so long as they take at worst (prior.h). */
void sl_stage_expect(struct sl_stage *stage, const struct sl_cost *cost);

/* From now on the observer sees the rows that go into every matrix of sl_stage_run and sl_stage_logits; NULL: nobody. Only
 * of a stage on the CPU. */
void sl_stage_observe(struct sl_stage *stage, const struct sl_observer *observer);

/* Since the start: time and work by part, summed over the members of the team, and the wall time of sl_stage_run and
 * sl_stage_logits. sl_stage_members() * run_ns minus all parts' ns is waiting: imbalance, barriers, serial steps. */
void sl_stage_parts(const struct sl_stage *stage, struct sl_parts *sum, uint64_t *run_ns);
/* Threads of the CPU's team; 1 of a GPU, whose times are its queue's. */
uint32_t sl_stage_members(const struct sl_stage *stage);
/* What the stage's device says that it can do at most (kernels/device.h). false: it is the host's, to be measured. */
bool sl_stage_roofline(const struct sl_stage *stage, struct sl_roofline *roofline);
/* The instruction that a part's operations run on, which is what its share of the peak is a share of: by the format of
 * the weights (of the middle layer, where layers differ) or of the KV pages. */
enum sl_peak sl_stage_part_peak(const struct sl_stage *stage, enum sl_part part);

/* XXH3 over the KV pages of a sequence for its first n_tokens tokens, layer by layer: equal for equal KV. A chain: `before` is what
 * the stage of the layers before these returned, 0 for the first, so it does not depend on how the layers are cut. */
uint64_t sl_stage_kv_digest(struct sl_stage *stage, const struct sl_sequence *sequence, uint32_t n_tokens,
                            uint64_t before);

/* sl_plan_make with the numbers of this model. */
sl_status sl_plan_for_shape(struct sl_plan *plan, const struct sl_shape *shape,
                            const struct sl_plan_options *options, struct sl_err *err);

#endif
