/* What the files of the GPU's device share (device.h): device.c life, queues and copies; device_plan.c where everything lies;
 * device_load.c how the weights come there; device_pinned.c what of the host's memory it reaches by itself; device_launch.c launches and
 * products; device_graph.c token steps, recorded; device_attention.c and device_experts.c the blocks; device_parts.c where the time goes;
 * device_rows.c rows that go from device to device; device_world.c the twin's driver.
 *
 * Pointers in here that say "device" are addresses there: they are added to and handed to kernels, never followed. */
#ifndef SL_KERNELS_GPU_DEVICE_IMPL_H
#define SL_KERNELS_GPU_DEVICE_IMPL_H

#include "kernels/cuda/modules.h"
#include "kernels/cuda/session.h"
#include "kernels/gpu/attend_cut.h"
#include "kernels/gpu/device.h"
#include "kernels/gpu/gemm8.h"
#include "kernels/gpu/host.h"
#include "kernels/gpu/quantise.h"
#include "kernels/parts.h"

enum {
    GPU_FUNCTIONS_MOST = 96,
    GPU_STAGED = 4,             /* pieces of pinned memory in each direction */
    GPU_STAGED_BYTES = 8 << 20, /* of one at most */
    GPU_LISTS = 4,              /* of the host, in turn */
    GPU_GRAPHS_MOST = 7,        /* of token steps, up to */
    GPU_STEP_ROWS = 64,
    GPU_LENT = 128, /* ranges of memory of others: a stage has one for each of its links */
    GPU_ITEMS_WANTED =
        1024, /* of attention, to keep a large device busy: a constant, so that plans need no device */
    GPU_SPARE_SEGMENTS = 16,     /* of a token's states, that room is left for when segments are shared out */
    GPU_PARTS_UNITS = 8,         /* pieces of work whose times have not been read */
    GPU_LAYERS_AHEAD = 8,        /* that the host asks for before the GPU has begun the first of them */
    GPU_TOKENS_MOST = 1 << 18,   /* route.h */
    GPU_PATIENCE_MS = 20 * 1000, /* for what nobody has predicted: weights on their way */
    GPU_PATIENCE_LEAST_MS = 2000, /* and for what is predicted: so many times that, and no less than this */
    GPU_PATIENCE_TIMES = 3,
    GPU_TWIN_PATIENCE_MS = 3600000 /* a twin is slow, and may be on a machine that is busy */
};

enum gpu_batches {           /* rows that go through a product together */
                   GPU_ALL,  /* of the chunk */
                   GPU_LEFT, /* that go on in the last layer */
                   GPU_HEAD,
                   GPU_BATCHES
};
struct gpu_numbers {
    uint32_t rows, items; /* items: of attention */
};
struct
    gpu_lists { /* in pinned memory, and the same on the device: what the host knows of a chunk before it runs */
    struct gpu_numbers *numbers;         /* [GPU_BATCHES] */
    struct sl_gpu_place_row *places;     /* [max_tokens] */
    uint32_t *slots;                     /* [max_slices * max_pages] */
    uint32_t *kept;                      /* [max_tokens], of GPU_LEFT */
    struct sl_gpu_attend_item *items[2]; /* of GPU_ALL, GPU_LEFT */
    struct sl_gpu_mix_row *mixes[2];     /* [max_tokens] */
    uint32_t *ids;                       /* [max_tokens] */
};

struct
    gpu_rows8 { /* on the device: rows in s8, first and second digits; the stride is that of whoever's inputs they are */
    int8_t *q[2];
    float *scale[2];
    int32_t *sum[2];
};

struct gpu_buffers { /* on the device */
    float *rows[SL_DEVICE_BUFFERS];
    float *normed, *qkv, *states, *hidden, *outputs, *gates, *router, *logits;
    struct gpu_rows8 x8, q8, hidden8; /* of d_model or of what attention leaves; of queries; of hidden rows */
    uint32_t *experts, *offsets, *pair_rows, *pairs, *load; /* route.h */
    uint32_t *n_tasks;                                      /* [n_layers] */
    struct gemm8_tile *tasks;
    float *cosine, *sine; /* [positions][d_head / 2] */
    uint8_t *places;      /* [n_places] of gpu_place_bytes */
    uint8_t *greeting;    /* [SL_ROWS_GREETING_BYTES], behind them */
    uint64_t *sums;       /* of a checksum: [SL_GPU_LANES_BLOCKS][SL_SUM_LANES] */
};

struct gpu_sizes {     /* of the above, from the config alone */
    uint32_t max_rows; /* of a buffer */
    size_t pairs, items, max_states;
    size_t k_bytes, v_bytes, layer_bytes, slot_bytes; /* of pages */
    size_t work_bytes, lists_bytes, kv_bytes, staged_bytes;
    size_t graph_bytes; /* that the driver takes beside what is allocated */
    struct sl_gpu_cut_config cut;
};

struct gpu_function {
    const struct gpu_kernel *kernel;
    sl_cu_function function;
    uint32_t shared, most; /* bytes; blocks that the device runs at once */
};

struct gpu_staged { /* a piece of pinned memory, and when it is free again */
    uint8_t *host;
    sl_cu_event done;
    bool used;
    void *to; /* of the host: a copy out that is not there yet; or NULL */
    size_t bytes;
};

struct gpu_lent { /* memory of others that is pinned */
    uint8_t *at;
    size_t bytes;
};

struct gpu_segment { /* of the compute stream: from its event to the next one's */
    sl_cu_event begin;
    enum sl_part part;                 /* SL_PARTS: of none */
    uint32_t layer;                    /* of expert_bytes */
    uint64_t ops, bytes, expert_bytes; /* expert_bytes: of each expert that the layer has hit */
};
struct
    gpu_kept { /* work that is asked for once and goes again and again, as a graph's does; of so many rows */
    uint32_t rows;
    struct {
        uint64_t ops, bytes;
    } part[SL_PARTS];
};
struct gpu_graph { /* of a token step of so many rows at most */
    sl_cu_exec exec;
    uint32_t rows;
    struct gpu_kept kept;
};
struct gpu_unit {        /* a piece of work, and where it ended, as numbers of segments */
    uint64_t begin, end; /* end: whose event is behind it */
    bool routed;
    const struct gpu_kept *kept; /* all layers of it, for so many rows, beside what attention was */
    uint32_t rows;
    uint64_t attention_ops, attention_bytes;
};
struct gpu_parts { /* device_parts.c */
    struct gpu_segment *ring;
    uint32_t room, most; /* of the ring, of a unit */
    uint64_t given;      /* segments */
    struct gpu_unit units[GPU_PARTS_UNITS];
    uint64_t n_closed, n_read; /* units; open: there is one behind those that are closed */
    bool open;
    struct gpu_kept *keeping;          /* what is asked for goes here, and no event is recorded */
    enum sl_part part;                 /* of it */
    uint64_t layers[GPU_LAYERS_AHEAD]; /* the first segment of each of the last ones */
    uint32_t *tasks; /* [GPU_PARTS_UNITS][n_layers], pinned: as n_tasks of gpu_buffers was */
    struct sl_parts sum;
};

struct gpu_driver { /* a device of a driver, taken */
    const struct sl_cuda *cuda;
    struct sl_gpu_session session; /* of cuda */
    sl_cu_context context;
    sl_cu_device device;
    struct sl_gpu gpu;
    const struct sl_gpu_image *images;
    uint32_t n_images;
    uint32_t patience_ms, patience_least_ms; /* with what is asked of it; where that is predicted */
    bool twin;
};

struct device_gpu {
    struct sl_device device;
    struct sl_device_config config;
    struct gpu_sizes sizes;
    struct gpu_driver driver;
    const struct sl_cuda *cuda; /* driver's */
    uint64_t number;            /* among all of this process, from 1 */
    struct sl_gpu_modules modules;
    struct gpu_function functions[GPU_FUNCTIONS_MOST];
    uint32_t n_functions;
    sl_cu_stream streams[SL_QUEUES];
    sl_cu_event events[SL_DEVICE_EVENTS], idle;
    enum sl_device_queue recorded[SL_DEVICE_EVENTS];
    sl_cu_at weights_at, kv_at, work_at;
    void *pinned;
    struct gpu_staged in[GPU_STAGED], out[GPU_STAGED], turn[GPU_LISTS]; /* turn: what `lists` lie in */
    struct gpu_lent lent[GPU_LENT];
    uint32_t n_lent;
    uint32_t next_in, next_out, next_turn, n_out; /* out: the oldest of n_out is next_out - n_out */
    struct gpu_lists lists[GPU_LISTS], at;        /* of the host; on the device */
    char isa[16];
    struct gpu_buffers b;
    struct gpu_links *links;          /* device_rows.c; NULL: no rows go from device to device */
    struct sl_device_weights weights; /* layers: ours; all pointers in them are the device's */
    struct sl_layer_blocks *layers;
    struct gpu_graph graphs[GPU_GRAPHS_MOST]; /* by rows */
    uint32_t n_graphs;
    /* The chunk that has begun. */
    struct sl_device_chunk chunk;
    uint32_t patience_ms; /* with what is asked of it now */
    uint32_t n[GPU_BATCHES], n_items[2];
    const struct gpu_graph *graph; /* it goes by that; NULL: launch by launch */
    struct gpu_parts parts;
};

static inline struct device_gpu *gpu_of(struct sl_device *device)
{
    return (struct device_gpu *)(void *)device;
}
static inline void *gpu_pointer(sl_cu_at at)
{
    return (void *)(uintptr_t)at;
}

/* Nobody can go on: says so and ends the process. */
_Noreturn void gpu_lost(const struct device_gpu *d, const char *why);
void gpu_check(const struct device_gpu *d, sl_cu_result result, const char *what);
void gpu_enter(
    struct device_gpu *d); /* what follows is for this device, whose context stays current; any thread */
void gpu_idle(const struct device_gpu *d); /* waits until nothing is under way any more */

/* device_plan.c: pure */
sl_status gpu_plan(struct gpu_sizes *sizes, const struct sl_device_config *config, struct sl_err *err);
/* Where all of it lies from `base` on; returns the bytes. */
size_t gpu_place_lists(struct gpu_lists *lists, uintptr_t base, const struct sl_device_config *config,
                       const struct gpu_sizes *sizes);
size_t gpu_place_buffers(struct gpu_buffers *buffers, uintptr_t base, const struct sl_device_config *config,
                         const struct gpu_sizes *sizes);

/* device_pinned.c: memory of the host that is pinned, for the device or where it lies. */
sl_status gpu_pin(const struct device_gpu *d, void **memory, size_t bytes, struct sl_err *err);
bool gpu_is_lent(const struct device_gpu *d, const void *at, size_t bytes);
void gpu_lend(struct sl_device *device, void *memory, size_t bytes);
void gpu_take_back(struct sl_device *device, void *memory);

/* device_load.c: the weights, to where weights_at says. They are there when it returns. */
sl_status gpu_load(struct device_gpu *d, const struct sl_device_inflow *inflow, struct sl_err *err);

/* device_launch.c */
sl_status gpu_find_functions(struct device_gpu *d, struct sl_err *err);
/* So many blocks exactly; or as many as the device runs at once, and no more than there is work for. 0: nothing is done. */
void gpu_launch_blocks(struct device_gpu *d, const struct gpu_kernel *kernel, const void *params,
                       size_t blocks);
void gpu_launch_shared(struct device_gpu *d, const struct gpu_kernel *kernel, const void *params,
                       size_t most_blocks);

/* Rows for a product, y = x w: which rows, of which experts, and where they go. Pointers are the device's. */
struct gpu_mul {
    const struct sl_panel *w;
    size_t expert_stride; /* bytes */
    const float *x;       /* where w has floats: [rows][w->k] */
    const struct gpu_rows8 *x8;
    const uint32_t *rows;           /* of x, by row of y; or NULL */
    uint32_t n_rows, n_experts;     /* rows of y; matrices that they are shared out among */
    const struct gemm8_tile *tiles; /* as high as `body` takes them; NULL: one expert, cut by the kernel */
    const uint32_t *count;          /* of tiles, else of rows */
    enum gemm8_body body;
    enum sl_part part;
    uint32_t begin, n; /* columns of y: [begin, begin + n), begin a multiple of 16 */
    float *y;          /* [][y_stride] */
    uint32_t y_stride;
    bool swiglu, accumulate;
};
void gpu_multiply(struct device_gpu *d, const struct gpu_mul *p);
/* Which body such a product wants; floats have one, whose tiles are those of GEMM8_MMA. */
enum gemm8_body gpu_body_of(const struct device_gpu *d, const struct gpu_mul *p);
/* The rows of a batch. */
struct gpu_mul gpu_mul_of(const struct device_gpu *d, enum gpu_batches batch, const struct sl_panel *w);
/* Where rows for `w`, of integers, are left, as norm and mix take it. */
struct sl_gpu_row8 gpu_row8_of(const struct gpu_rows8 *to, const struct sl_panel *w);
/* x of the batch, normalised: in normed where somebody wants floats, in x8 as `w` wants them if it is of integers. */
void gpu_norm(struct device_gpu *d, enum gpu_batches batch, const float *x, const float *gain,
              const struct sl_panel *w, bool floats);
/* Rows of x, `each` of a row of the batch, to s8 as w wants them. */
void gpu_quantise(struct device_gpu *d, enum gpu_batches batch, uint32_t each, const float *x,
                  const struct sl_panel *w, const struct gpu_rows8 *to);

/* The blocks. */
void gpu_attention(struct device_gpu *d, uint32_t layer);
void gpu_experts(struct device_gpu *d, uint32_t layer);

/* device_rows.c */
static inline size_t gpu_place_bytes(const struct sl_device_config *config)
{
    return (size_t)config->max_tokens * config->attention.d_model * sizeof(float);
}
size_t gpu_links_bytes(const struct sl_device_config *config);      /* pinned */
sl_status gpu_links_open(struct device_gpu *d, struct sl_err *err); /* if the config has places */
void gpu_links_drain(struct device_gpu *d); /* waits for what is queued in their streams */
void gpu_links_close(struct device_gpu *d);
const struct sl_rows_device *gpu_links(struct sl_device *device);
void gpu_seal(struct sl_device *device, struct sl_device_at rows, size_t bytes, uint64_t at,
              struct sl_lane_sums *sums);
/* device_graph.c */
size_t gpu_graph_bytes(const struct sl_device_config *config);
/* For a device whose chunks are token steps; all else is there. */
sl_status gpu_graphs_make(struct device_gpu *d, struct sl_err *err);
void gpu_graphs_destroy(struct device_gpu *d);
const struct gpu_graph *gpu_graph_of(const struct device_gpu *d); /* the chunk's; NULL: there is none */
void gpu_graph_launch(struct device_gpu *d, const struct gpu_graph *graph); /* all its layers */
/* device_parts.c */
size_t gpu_parts_bytes(const struct sl_device_config *config); /* pinned */
sl_status gpu_parts_create(struct device_gpu *d, struct sl_err *err);
void gpu_parts_destroy(struct device_gpu *d);
/* The host is about to ask for a layer of the chunk. It waits for the GPU if that is many layers behind: a driver has room for so much
 * (some 1,000 launches), and holds up whoever gives it more, without an end if the GPU hangs. */
void gpu_parts_layer(struct device_gpu *d, uint32_t layer);
/* What the compute stream is given from here on is of that part, until the next one or gpu_parts_close. */
void gpu_part(struct device_gpu *d, enum sl_part part);
void gpu_work(struct device_gpu *d, uint64_t ops, uint64_t bytes); /* of the part that has begun */
void gpu_work_product(struct device_gpu *d, const struct gpu_mul *p);
void gpu_work_attention(struct device_gpu *d, enum gpu_batches batch); /* of the chunk, in a layer */
/* From here on, until it is called with NULL, all layers are asked for to be kept in `kept`, whose rows are set; what attention does of
 * a chunk comes later. Nothing is timed: while a stream is captured its events are not its own. */
void gpu_parts_keep(struct device_gpu *d, struct gpu_kept *kept);
/* They go once more, for the rows of the chunk that has begun, as one launch: SL_PART_STEPS. `kept` stays. */
void gpu_parts_again(struct device_gpu *d, const struct gpu_kept *kept);
void gpu_parts_close(struct device_gpu *d); /* a piece of work ends here */
void gpu_parts_read(struct device_gpu *d);  /* what has come is added to the sums; nothing is waited for */

/* device_world.c */
/* A device of the twin's world, which is made if there is none. Its kernels are those of `kernels` [n]. */
sl_status gpu_world_join(struct gpu_driver *driver, struct sl_err *err);
void gpu_world_leave(struct gpu_driver *driver);
extern const struct gpu_kernel *const gpu_kernels[]; /* [gpu_n_kernels]: all that a device launches */
extern const uint32_t gpu_n_kernels;
/* Those that a GPU of this capability has: the first so many, since what is for 9.0 alone stands last. */
uint32_t gpu_kernels_of(uint32_t capability);

#endif
