/* Classes, formats and the rules that choose them (format.h): names and their spelling.
 *
 * Formats come back from pack.json, which is untrusted, so parsing accepts exactly what printing makes: a
 * format has one spelling, and the manifest's check for canonical text needs no exception. */
#include "model/format.h"
#include <stdio.h>
#include <stdlib.h>

static const char *const class_names[SL_CLASSES] = {"attention", "dense",  "experts.gate_up", "experts.down",
                                                    "head",      "router", "embed",           "norms"};

const char *sl_class_name(enum sl_class class_)
{
    return class_names[class_];
}

bool sl_class_find(enum sl_class *class_, const char *name, size_t bytes)
{
    for (int i = 0; i < SL_CLASSES; i++)
        if (strlen(class_names[i]) == bytes && memcmp(class_names[i], name, bytes) == 0) {
            *class_ = (enum sl_class)i;
            return true;
        }
    return false;
}

void sl_format_print(struct sl_format format, char text[SL_FORMAT_ROOM])
{
    char rotation[8] = "";
    if (format.rotation)
        snprintf(rotation, sizeof rotation, "+h%u", format.rotation % 1000);
    snprintf(text, SL_FORMAT_ROOM, "%s%s%s", sl_dtype_name(format.dtype), rotation,
             format.digits == 2 ? "+a16" : "");
}

bool sl_format_parse(struct sl_format *format, const char *text)
{
    char name[SL_FORMAT_ROOM], again[SL_FORMAT_ROOM];
    size_t n = strcspn(text, "+");
    if (strlen(text) >= sizeof again)
        return false;
    memcpy(name, text, n);
    name[n] = '\0';
    *format = (struct sl_format){0};
    if (!sl_dtype_parse(&format->dtype, name) || (text[n] && !sl_dtype_is_integer(format->dtype)))
        return false;
    if (text[n] && text[n + 1] == 'h') {
        unsigned long rotation = strtoul(text + n + 2, NULL, 10);
        if (rotation < 2 || rotation > SL_ROTATION_MAX || (rotation & (rotation - 1)) != 0)
            return false;
        format->rotation = (uint32_t)rotation;
    }
    format->digits = strstr(text, "+a16") ? 2 : 0;
    sl_format_print(*format, again); /* one spelling: whatever else the text says makes it differ */
    return strcmp(text, again) == 0;
}

uint32_t sl_rotation_of(uint32_t limit, uint32_t k)
{
    uint32_t block = 1;
    while (block * 2 <= limit && k % (block * 2) == 0)
        block *= 2;
    return block >= 2 ? block : 0;
}

/* ---- rules ---- */

static sl_status bad_rule(const char *rule, size_t bytes, struct sl_err *err)
{
    return sl_fail(
        err, SL_E_USAGE,
        "--keep: '%.*s' is not a rule; write first:N=FORMAT, last:N=FORMAT or LAYER=FORMAT, where FORMAT is "
        "bf16, i8, i4, i4g16, i3 or i2, and commas between several",
        bytes < 60 ? (int)bytes : 60, rule);
}

static sl_status parse_rule(struct sl_formats *f, const char *rule, size_t bytes, struct sl_err *err)
{
    char text[32], *end;
    if (bytes >= sizeof text)
        return bad_rule(rule, bytes, err);
    memcpy(text, rule, bytes);
    text[bytes] = '\0';
    struct sl_keep keep = {.where = SL_KEEP_LAYER};
    const char *number = text, *format = strchr(text, '=');
    if (strncmp(text, "first:", 6) == 0)
        keep.where = SL_KEEP_FIRST, number += 6;
    else if (strncmp(text, "last:", 5) == 0)
        keep.where = SL_KEEP_LAST, number += 5;
    unsigned long n = strtoul(number, &end, 10);
    if (*number < '0' || *number > '9' || end != format || n > 100000 ||
        !sl_dtype_parse(&keep.dtype, format + 1) || keep.dtype == SL_F32)
        return bad_rule(rule, bytes, err);
    keep.n = (uint32_t)n;
    if (f->n_keep == SL_MAX_KEEP)
        return sl_fail(err, SL_E_USAGE, "--keep: more than %d rules; join them with first:N or last:N",
                       SL_MAX_KEEP);
    f->keep[f->n_keep++] = keep;
    return SL_OK;
}

sl_status sl_formats_keep(struct sl_formats *formats, const char *text, struct sl_err *err)
{
    for (const char *rule = text;;) {
        size_t bytes = strcspn(rule, ",");
        SL_TRY(parse_rule(formats, rule, bytes, err));
        if (rule[bytes] == '\0')
            return SL_OK;
        rule += bytes + 1;
    }
}

sl_status sl_formats_check(const struct sl_formats *formats, uint32_t n_layers, struct sl_err *err)
{
    for (uint32_t i = 0; i < formats->n_keep; i++) {
        const struct sl_keep *keep = &formats->keep[i];
        if (keep->where == SL_KEEP_LAYER ? keep->n >= n_layers : keep->n > n_layers)
            return sl_fail(err, SL_E_USAGE, "--keep: the model has %u layers, so there is no %s %u", n_layers,
                           keep->where == SL_KEEP_LAYER   ? "layer"
                           : keep->where == SL_KEEP_FIRST ? "first:"
                                                          : "last:",
                           keep->n);
    }
    return SL_OK;
}

static bool applies(const struct sl_keep *keep, uint32_t layer, uint32_t n_layers)
{
    switch (keep->where) {
    case SL_KEEP_FIRST:
        return layer < keep->n;
    case SL_KEEP_LAST:
        return layer < n_layers && layer >= n_layers - keep->n;
    default:
        return layer == keep->n;
    }
}

enum sl_dtype sl_formats_of(const struct sl_formats *formats, enum sl_class class_, uint32_t layer,
                            uint32_t n_layers)
{
    if (class_ >= SL_CLASS_ROUTER)
        return SL_F32;
    enum sl_dtype dtype = formats->classes[class_];
    if (class_ == SL_CLASS_GATE_UP || class_ == SL_CLASS_DOWN)
        for (uint32_t i = 0; i < formats->n_keep; i++)
            if (applies(&formats->keep[i], layer, n_layers))
                dtype = formats->keep[i].dtype;
    return dtype;
}

uint32_t sl_formats_digits(const struct sl_formats *formats, enum sl_dtype dtype)
{
    bool coarse = formats->activations == SL_ACTIVATIONS_8;
    for (int c = 0; formats->activations == SL_ACTIVATIONS_AUTO && c < SL_CLASSES; c++)
        coarse |= sl_dtype_is_integer(formats->classes[c]) && formats->classes[c] != SL_I8;
    return sl_dtype_is_integer(dtype) && !coarse ? 2 : 0;
}
