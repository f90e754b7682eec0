/* Bound weights of a layer range: the views that stages compute with. A stage maps only its own files; the
 * pages are shared with every other process on the machine that maps them. */
#ifndef SL_MODEL_PACK_WEIGHTS_H
#define SL_MODEL_PACK_WEIGHTS_H

#include "kernels/panel.h"
#include "model/pack/pack.h"

struct sl_ffn { /* one gated feed-forward; gate_up as isa.h interleaves it */
    struct sl_panel gate_up, down;
};

struct sl_layer {
    const float *attn_norm, *ffn_norm;
    const float *q_norm, *k_norm; /* NULL: no q/k norm */
    const float *qkv_bias;        /* NULL: none */
    struct sl_panel qkv, o;
    bool is_moe;
    struct sl_panel router; /* n = n_experts */
    struct sl_ffn expert0;  /* expert e lies e * stride bytes further */
    size_t gate_up_stride, down_stride;
    struct sl_ffn dense; /* when !is_moe */
    bool has_shared;
    struct sl_ffn shared;
    const float *shared_gate; /* d_model, or NULL */
};

struct sl_weights {
    uint32_t begin, end;     /* layers [begin, end) */
    struct sl_layer *layers; /* layers[i - begin] */
    const void *embed;       /* [vocab][d_model], when begin == 0 */
    enum sl_dtype embed_dtype;
    const float *final_norm; /* when end == n_layers */
    struct sl_panel head;
    uint64_t mapped_bytes;
    void *private_maps;
};

enum sl_verify {
    SL_VERIFY_FAST, /* every block by its XXH3; an older pack, which has none, by SHA-256 */
    SL_VERIFY_FULL, /* and every file by its SHA-256 */
    SL_VERIFY_OFF /* what is opened to be looked at, or was verified a moment ago: sizes, types and shapes alone */
};
enum sl_progress_kind { SL_PROGRESS_NONE, SL_PROGRESS_BAR, SL_PROGRESS_LOG };
struct sl_loading { /* zeroed: mapped, verified fast, by all processors, without a word */
    enum sl_verify verify;
    bool copy; /* into private memory, which nobody else can write or truncate; else mapped and shared */
    /* Neither: views are addresses that stand for bytes, and at which there is nothing. sl_weights_next brings the bytes, for who
     * has them in other memory. */
    bool apart;
    uint32_t threads;               /* 0: all processors */
    enum sl_progress_kind progress; /* of what takes more than two seconds */
};

/* with_embed/with_head: usually begin == 0 and end == n_layers. Only the files of the range are touched. Their bytes are compared
 * with the pack as options (NULL: zeroed) say, then every tensor's dtype and shape is checked against the shape. SL_E_DATA names
 * the file, the tensor and the remedy. The pack outlives the weights. */
sl_status sl_weights_open(struct sl_weights *weights, const struct sl_pack *pack, uint32_t begin,
                          uint32_t end, bool with_embed, bool with_head, const struct sl_loading *options,
                          struct sl_err *err);
void sl_weights_close(struct sl_weights *weights);

/* Of weights that are apart: the next bytes of one of their files, read and compared with the pack on the way. `to` has room for
 * sl_weights_piece bytes; *from: the address that stands for the first of them. *bytes 0: all have been brought. One thread, beside
 * those that help it. SL_E_DATA, SL_E_IO: as sl_weights_open. */
sl_status sl_weights_next(struct sl_weights *weights, void *to, const void **from, size_t *bytes,
                          struct sl_err *err);
size_t sl_weights_piece(const struct sl_weights *weights);

/* Every file of an opened pack by its SHA-256, every block, every tensor (sluice check). how: threads and progress; or NULL. */
sl_status sl_pack_verify(const struct sl_pack *pack, const struct sl_loading *how, struct sl_err *err);
/* The same, and then it has block digests (sluice check --add). The opened pack is as it was: open it again. */
sl_status sl_pack_add_digests(const struct sl_pack *pack, const struct sl_loading *how, struct sl_err *err);

/* Adds what the open weights take to uses, class by class. */
void sl_weights_account(const struct sl_weights *weights, const struct sl_shape *shape,
                        struct sl_class_use uses[SL_CLASSES]);

#endif
