/* From a checkpoint's tensors to the pieces of a pack: private to pack.c, pack_plan.c and
 * pack_convert.c. A plan file is one weights file; its pieces are the tensors of that file in
 * order, each made of source tensors. The plan is complete, and every source tensor found and
 * checked, before the first byte is written. */
#ifndef SL_MODEL_PACK_PLAN_IMPL_H
#define SL_MODEL_PACK_PLAN_IMPL_H

#include "model/pack_impl.h"

enum sl_piece_kind {
    SL_PIECE_VECTOR, /* f32, its parts one after the other */
    SL_PIECE_ROWS,   /* row-major, as published */
    SL_PIECE_PANELS  /* [units][n/16][k][16] */
};

struct sl_piece {
    char name[24];
    const char *class_name; /* key of the manifest's formats */
    enum sl_piece_kind kind;
    enum sl_dtype dtype;
    bool stacked;                   /* has the leading dimension `units`, even when it is 1 */
    bool interleaved;               /* parts are gate, up: 16 rows of one, 16 of the other */
    uint32_t units;                 /* experts, or 1 */
    uint32_t n, k;                  /* outputs of a unit before padding, inputs */
    const struct sl_tensor **parts; /* owned; parts_per_unit for each unit in turn */
    uint32_t n_parts, parts_per_unit;
};

struct sl_plan_file {
    char name[32];
    struct sl_piece pieces[16];
    uint32_t n_pieces;
    struct sl_layout layout;
};

struct sl_pack_plan {
    const struct sl_shape *shape;
    const struct sl_index *source;
    uint8_t *used;              /* per source tensor */
    struct sl_plan_file *files; /* embed, the layers, head */
    uint32_t n_files;
    struct sl_progress *progress;
};

/* Finds and checks every tensor, decides formats (reading F16 and F32 sources once), lays the files
 * out. */
sl_status sl_pack_plan_make(struct sl_pack_plan *plan, const struct sl_shape *shape,
                            const struct sl_index *source, struct sl_progress *progress,
                            struct sl_err *err);
void sl_pack_plan_free(struct sl_pack_plan *plan); /* a zeroed plan is fine */

/* Bytes that the plan's weights files will have. */
uint64_t sl_pack_plan_bytes(const struct sl_pack_plan *plan);

/* True when every value is a bf16 (NaN and Inf count as such; the conversion finds them). */
bool sl_tensor_fits_bf16(const struct sl_index *source, const struct sl_tensor *tensor);

/* Writes one piece. SL_E_DATA names the source tensor that holds a NaN or an infinity. */
sl_status sl_piece_write(const struct sl_piece *piece, const struct sl_index *source,
                         struct sl_out *out, struct sl_err *err);

#endif
