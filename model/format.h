/* Which number format a weight has: classes of tensors, formats with their rotation, rules by layer.
 *
 * A class is what a user chooses a format for: the attention projections, the routed experts' gate|up, ... .
 * A format is a dtype and, for integers, perhaps a rotation: "i4", "i4+h128". The number after h is the
 * largest Hadamard block (kernels/panel.h): a panel of k inputs has the largest power of two up to it that
 * divides k, or none. "+a16" says that activations come in two digits of s8. A float dtype stands for "exact": bf16 where every value is one, else f32. */
#ifndef SL_MODEL_FORMAT_H
#define SL_MODEL_FORMAT_H

#include "base/status.h"
#include "kernels/quant.h"

enum sl_class {
    SL_CLASS_ATTENTION, /* q|k|v and o */
    SL_CLASS_DENSE,     /* dense and shared feed-forwards */
    SL_CLASS_GATE_UP,   /* of the routed experts */
    SL_CLASS_DOWN,      /* of the routed experts */
    SL_CLASS_HEAD,
    SL_CLASS_ROUTER, /* from here on always exact */
    SL_CLASS_EMBED,
    SL_CLASS_NORMS,
    SL_CLASSES
};
const char *sl_class_name(enum sl_class class_); /* "attention", "experts.gate_up", ... */
bool sl_class_find(enum sl_class *class_, const char *name, size_t bytes);

enum {
    SL_ROTATION_BLOCK =
        128, /* what the packer writes: one head, and every served model's widths are multiples of 64 */
    SL_ROTATION_MAX = 256,
    SL_FORMAT_ROOM = 24, /* "i4g16+h128+a16" */
    SL_MAX_KEEP = 64,
    SL_NO_LAYER = UINT32_MAX /* the layer of what lies outside of all: embedding and head */
};

struct sl_format {
    enum sl_dtype dtype;
    uint32_t rotation; /* 0 or a power of two, 2..SL_ROTATION_MAX; integers only */
    uint32_t digits;   /* 2: activations in two s8 digits, 15 bits; else 0. Integers only */
};
void sl_format_print(struct sl_format format, char text[SL_FORMAT_ROOM]);
/* False when the text is not what sl_format_print prints for some format. */
bool sl_format_parse(struct sl_format *format, const char *text);

/* The largest power of two <= limit that divides k; 0 when that is 1, which rotates nothing. */
uint32_t sl_rotation_of(uint32_t limit, uint32_t k);

/* What to pack with. All zero: everything exact. */
struct sl_keep { /* the routed experts of some layers */
    enum { SL_KEEP_FIRST, SL_KEEP_LAST, SL_KEEP_LAYER } where;
    uint32_t n; /* so many layers, or the layer's number */
    enum sl_dtype dtype;
};
enum sl_activations { SL_ACTIVATIONS_AUTO, SL_ACTIVATIONS_8, SL_ACTIVATIONS_16 };
struct sl_formats {
    enum sl_dtype classes[SL_CLASSES];
    /* AUTO: 16 where no class has fewer than 8 bits, for then their error counts most */
    enum sl_activations activations;
    struct sl_keep keep[SL_MAX_KEEP]; /* a later one wins */
    uint32_t n_keep;
};
/* Adds rules from text: "first:N=FORMAT", "last:N=FORMAT", "LAYER=FORMAT", separated by commas. SL_E_USAGE.
 */
sl_status sl_formats_keep(struct sl_formats *formats, const char *text, struct sl_err *err);
/* SL_E_USAGE when a rule speaks of layers that a model of n_layers does not have. */
sl_status sl_formats_check(const struct sl_formats *formats, uint32_t n_layers, struct sl_err *err);
/* layer: SL_NO_LAYER for embedding and head. */
enum sl_dtype sl_formats_of(const struct sl_formats *formats, enum sl_class class_, uint32_t layer,
                            uint32_t n_layers);

/* Digits of the activations that go into a matrix of this dtype: 2 or 0. */
uint32_t sl_formats_digits(const struct sl_formats *formats, enum sl_dtype dtype);

/* What the weights of a class take. */
struct sl_class_use {
    uint64_t weights; /* without padding */
    uint64_t bytes;   /* as stored, scales and padding included */
};
static inline double sl_class_bits(const struct sl_class_use *use)
{
    return use->weights ? 8.0 * (double)use->bytes / (double)use->weights : 0;
}

#endif
