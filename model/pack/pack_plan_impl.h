/* From a checkpoint's tensors to the pieces of a pack: private to pack.c and what it writes with
 * (pack_plan.c, pack_blocks.c, pack_convert.c, pack_quantise.c, pack_random.c). A plan file is one weights file; its pieces are the tensors of that file in
 * order, each made of source tensors. The plan is complete, and every source tensor found and
 * checked, before the first byte is written. */
#ifndef SL_MODEL_PACK_PACK_PLAN_IMPL_H
#define SL_MODEL_PACK_PACK_PLAN_IMPL_H

#include "model/pack/pack_impl.h"
#include "model/quantise/quantise.h"

enum sl_piece_kind {
    SL_PIECE_VECTOR, /* f32, its parts one after the other */
    SL_PIECE_ROWS,   /* row-major, as published */
    SL_PIECE_PANELS  /* [units][n/16][k][16] */
};

struct sl_piece {
    char name[24];
    enum sl_class class_;
    enum sl_site site; /* whose inputs, for panels; the router has none and is exact */
    enum sl_piece_kind kind;
    enum sl_dtype dtype;
    uint32_t rotation;              /* the panel's own, 0: none */
    bool stacked;                   /* has the leading dimension `units`, even when it is 1 */
    bool interleaved;               /* parts are gate, up: 16 rows of one, 16 of the other */
    uint32_t units;                 /* experts, or 1 */
    uint32_t n, k;                  /* outputs of a unit before padding to 16, inputs */
    uint32_t rows;                  /* of n those that are published rows: gate and up are padded each */
    const struct sl_tensor **parts; /* owned; parts_per_unit for each unit in turn; NULLs: random weights */
    uint32_t n_parts, parts_per_unit;
};

struct sl_pack_plan_file {
    char name[32];
    uint32_t layer; /* SL_NO_LAYER: embedding, head */
    struct sl_piece pieces[16];
    uint32_t n_pieces;
    struct sl_layout layout;
};

struct sl_pack_plan {
    const struct sl_shape *shape;
    const struct sl_index *source; /* NULL: random weights */
    const struct sl_formats *formats;
    uint8_t *used;                   /* per source tensor */
    struct sl_pack_plan_file *files; /* embed, the layers, head */
    uint32_t n_files;
    struct sl_progress *progress;
};

/* Finds and checks every tensor, decides formats (reading F16 and F32 sources once), lays the files out.
 * source NULL: nothing to find, the weights will be random. */
sl_status sl_pack_plan_make(struct sl_pack_plan *plan, const struct sl_shape *shape,
                            const struct sl_formats *formats, const struct sl_index *source,
                            struct sl_progress *progress, struct sl_err *err);
void sl_pack_plan_free(struct sl_pack_plan *plan); /* a zeroed plan is fine */

/* Bytes that the plan's weights files will have. */
uint64_t sl_pack_plan_bytes(const struct sl_pack_plan *plan);

/* The manifest's formats, after the pieces' rotations have been chosen. NULL: out of memory. */
json_t *sl_pack_plan_formats(const struct sl_pack_plan *plan);

/* ---- blocks: a piece is a row of them, made by many threads, written in order (pack_blocks.c) ---- */

/* Reports are added in the order of blocks, so not even the last bit of a sum depends on the threads. */
struct sl_blocks {
    uint64_t n;
    size_t block_bytes;   /* room of a block; may be 0 */
    size_t scratch_bytes; /* private to a thread, 64-byte aligned */
    uint32_t threads;     /* >= 1 */
    /* Makes block `number` and sets *bytes (block_bytes before). Any thread, any order. */
    sl_status (*make)(void *arg, uint64_t number, uint8_t *block, size_t *bytes,
                      struct sl_quantise_report *report, void *scratch, struct sl_err *err);
    void *arg;
};
/* out NULL: nothing is written, the sum is what counts. The error is that of the lowest block that fails. */
sl_status sl_blocks_run(const struct sl_blocks *blocks, struct sl_out *out, struct sl_quantise_report *sum,
                        struct sl_err *err);

/* ---- the makers ---- */

struct sl_piece_job { /* what writing a piece needs beside the piece */
    const struct sl_index *source;
    const struct sl_pack_calibration *calibration; /* or NULL */
    enum sl_rotate rotate;
    uint32_t threads;
    uint64_t seed; /* of this piece, when source is NULL */
};

/* True when every value is a bf16 (NaN and Inf count as such; the conversion finds them). */
bool sl_tensor_fits_bf16(const struct sl_index *source, const struct sl_tensor *tensor);

/* Exact: pack_convert.c. SL_E_DATA names the source tensor that holds a NaN or an infinity. */
sl_status sl_piece_convert(const struct sl_piece *piece, const struct sl_piece_job *job, struct sl_out *out,
                           struct sl_err *err);
/* Sixteen rows of a unit from `row` on, as floats [16][k]; rows[c] is NULL for padding. */
sl_status sl_piece_rows(const struct sl_piece *piece, const struct sl_index *source, uint32_t unit,
                        uint32_t row, float *values, const float *rows[SL_LANES], struct sl_err *err);

/* Integers: pack_quantise.c. Adds to *report. */
sl_status sl_piece_quantise(const struct sl_piece *piece, const struct sl_piece_job *job, struct sl_out *out,
                            struct sl_quantise_report *report, struct sl_err *err);
/* Decides piece->rotation for all pieces of a class in one file, by a sample of their blocks. */
sl_status sl_pieces_choose_rotation(struct sl_piece *const *pieces, uint32_t n_pieces,
                                    const struct sl_piece_job *job, struct sl_err *err);

/* Random: pack_random.c. The config.json of a shape with so many layers (0: all), malloc'ed. */
sl_status sl_random_config(const char *shape, uint32_t layers, char **text, struct sl_err *err);
sl_status sl_piece_random(const struct sl_piece *piece, const struct sl_piece_job *job, struct sl_out *out,
                          struct sl_err *err);

static inline uint32_t sl_piece_blocks(const struct sl_piece *piece) /* of a unit */
{
    return (piece->n + SL_LANES - 1) / SL_LANES;
}

#endif
