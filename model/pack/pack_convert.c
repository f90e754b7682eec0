/* Values: BF16, F16 or F32 rows as published -> bf16 or f32 in panels, rows or vectors.
 *
 * The conversion is exact or it is not done: bf16 is chosen only where every value is one, so
 * truncating the bits loses nothing. Work goes in blocks of 16 output rows, so memory is a few of
 * them whatever the size of the model, and the source is read from its mapping in order. NaN and
 * infinities are found here, where each value passes anyway. */
#include "base/bytes.h"
#include "model/pack/pack_plan_impl.h"
#include <assert.h>
#include <stdlib.h>

enum { CHUNK = 256 }; /* inputs per lane at a time: 16 lanes of them stay in the first-level cache */

static inline uint32_t f16_to_f32_bits(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3FFu;
    if (exponent == 31)
        return sign | 0x7F800000u | mantissa << 13;
    if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24 is exact in f32 */
        float value = (float)mantissa * 0x1p-24f;
        uint32_t bits;
        memcpy(&bits, &value, 4);
        return sign | bits;
    }
    return sign | (exponent + 112) << 23 | mantissa << 13;
}

static inline __attribute__((always_inline)) uint32_t load_bits(enum sl_tensor_type type, const uint8_t *data,
                                                                size_t i)
{
    if (type == SL_T_BF16)
        return (uint32_t)sl_get16(data + 2 * i) << 16;
    if (type == SL_T_F16)
        return f16_to_f32_bits(sl_get16(data + 2 * i));
    return sl_get32(data + 4 * i);
}

/* n values to out[0], out[stride], ...; false when one of them is not finite. */
static inline __attribute__((always_inline)) bool convert(uint8_t *out, enum sl_dtype dtype, size_t stride,
                                                          enum sl_tensor_type type, const uint8_t *data,
                                                          size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = load_bits(type, data, i);
        bad |= (bits & 0x7F800000u) == 0x7F800000u;
        if (dtype == SL_BF16)
            sl_put16(out + 2 * i * stride, (uint16_t)(bits >> 16));
        else
            sl_put32(out + 4 * i * stride, bits);
    }
    return !bad;
}

static bool convert_any(uint8_t *out, enum sl_dtype dtype, size_t stride, enum sl_tensor_type type,
                        const uint8_t *data, size_t n)
{
    if (type == SL_T_BF16)
        return dtype == SL_BF16 ? convert(out, SL_BF16, stride, SL_T_BF16, data, n)
                                : convert(out, SL_F32, stride, SL_T_BF16, data, n);
    if (type == SL_T_F16)
        return dtype == SL_BF16 ? convert(out, SL_BF16, stride, SL_T_F16, data, n)
                                : convert(out, SL_F32, stride, SL_T_F16, data, n);
    return dtype == SL_BF16 ? convert(out, SL_BF16, stride, SL_T_F32, data, n)
                            : convert(out, SL_F32, stride, SL_T_F32, data, n);
}

static size_t source_bytes(enum sl_tensor_type type)
{
    return type == SL_T_F32 ? 4 : 2;
}

bool sl_tensor_fits_bf16(const struct sl_index *source, const struct sl_tensor *tensor)
{
    if (tensor->type == SL_T_BF16)
        return true;
    const uint8_t *data = sl_index_data(source, tensor);
    size_t n = (size_t)(tensor->end - tensor->begin) / source_bytes(tensor->type);
    uint32_t low = 0;
    for (size_t i = 0; i < n && low == 0; i++)
        low = load_bits(tensor->type, data, i) & 0xFFFFu;
    return low == 0;
}

static sl_status not_finite(const struct sl_tensor *tensor, struct sl_err *err)
{
    return sl_fail(err, SL_E_DATA,
                   "tensor '%.120s' contains a NaN or an infinity; the checkpoint is "
                   "damaged, fetch it again",
                   tensor->name);
}

/* Output row `row` of a unit: the tensor that holds it and its row there. NULL: padding. */
static const struct sl_tensor *find_row(const struct sl_piece *piece, uint32_t unit, uint32_t row,
                                        uint64_t *source_row)
{
    const struct sl_tensor *const *parts = piece->parts + (size_t)unit * piece->parts_per_unit;
    if (piece->interleaved) {
        const struct sl_tensor *part = parts[row / SL_LANES % 2];
        *source_row = row / (2 * SL_LANES) * SL_LANES + row % SL_LANES;
        return *source_row < part->shape[0] ? part : NULL;
    }
    *source_row = row;
    for (uint32_t i = 0; i < piece->parts_per_unit; i++) {
        if (*source_row < parts[i]->shape[0])
            return parts[i];
        *source_row -= parts[i]->shape[0];
    }
    return NULL;
}

/* Where the sixteen output rows of a block lie in the source; tensors[c] NULL: padding. */
static bool find_rows(const struct sl_piece *piece, const struct sl_index *source, uint32_t unit,
                      uint32_t row, const struct sl_tensor *tensors[SL_LANES], const uint8_t *rows[SL_LANES])
{
    bool padded = false;
    for (uint32_t c = 0; c < SL_LANES; c++) {
        uint64_t source_row;
        tensors[c] = find_row(piece, unit, row + c, &source_row);
        padded |= !tensors[c];
        if (tensors[c])
            rows[c] = (const uint8_t *)sl_index_data(source, tensors[c]) +
                      source_row * piece->k * source_bytes(tensors[c]->type);
    }
    return padded;
}

sl_status sl_piece_rows(const struct sl_piece *piece, const struct sl_index *source, uint32_t unit,
                        uint32_t row, float *values, const float *rows[SL_LANES], struct sl_err *err)
{
    const struct sl_tensor *tensors[SL_LANES];
    const uint8_t *data[SL_LANES];
    find_rows(piece, source, unit, row, tensors, data);
    for (uint32_t c = 0; c < SL_LANES; c++) {
        float *to = values + (size_t)c * piece->k;
        rows[c] = tensors[c] ? to : NULL;
        if (tensors[c] && !convert_any((uint8_t *)to, SL_F32, 1, tensors[c]->type, data[c], piece->k))
            return not_finite(tensors[c], err);
    }
    return SL_OK;
}

/* Sixteen output rows of one unit into block[k][16]. */
static sl_status fill_block(uint8_t *block, const struct sl_piece *piece, uint32_t unit, uint32_t row,
                            const struct sl_index *source, struct sl_err *err)
{
    const struct sl_tensor *tensors[SL_LANES];
    const uint8_t *rows[SL_LANES];
    size_t width = sl_dtype_bytes(piece->dtype);
    if (find_rows(piece, source, unit, row, tensors, rows))
        memset(block, 0, SL_LANES * width * piece->k);
    for (uint32_t at = 0; at < piece->k; at += CHUNK) {
        uint32_t n = piece->k - at < CHUNK ? piece->k - at : CHUNK;
        for (uint32_t c = 0; c < SL_LANES; c++) {
            if (!tensors[c])
                continue;
            uint8_t *to = block + ((size_t)at * SL_LANES + c) * width;
            const uint8_t *from = rows[c] + at * source_bytes(tensors[c]->type);
            if (!convert_any(to, piece->dtype, SL_LANES, tensors[c]->type, from, n))
                return not_finite(tensors[c], err);
        }
    }
    return SL_OK;
}

struct conversion {
    const struct sl_piece *piece;
    const struct sl_index *source;
};

static sl_status convert_block(void *arg, uint64_t number, uint8_t *block, size_t *bytes,
                               struct sl_quantise_report *report, void *scratch, struct sl_err *err)
{
    const struct conversion *conversion = arg;
    const struct sl_piece *piece = conversion->piece;
    uint32_t blocks = sl_piece_blocks(piece);
    (void)bytes; /* every block is whole */
    (void)report;
    (void)scratch;
    return fill_block(block, piece, (uint32_t)(number / blocks), (uint32_t)(number % blocks) * SL_LANES,
                      conversion->source, err);
}

/* Vectors and row-major matrices: every part in order, in stretches of at most `room` values. */
static sl_status write_flat(const struct sl_piece *piece, const struct sl_index *source, uint8_t *buffer,
                            size_t room, struct sl_out *out, struct sl_err *err)
{
    for (uint32_t i = 0; i < piece->n_parts; i++) {
        const struct sl_tensor *part = piece->parts[i];
        const uint8_t *data = sl_index_data(source, part);
        size_t total = (size_t)(part->end - part->begin) / source_bytes(part->type);
        for (size_t at = 0; at < total; at += room) {
            size_t n = total - at < room ? total - at : room;
            if (!convert_any(buffer, piece->dtype, 1, part->type, data + at * source_bytes(part->type), n))
                return not_finite(part, err);
            SL_TRY(sl_out_write(out, buffer, n * sl_dtype_bytes(piece->dtype), err));
        }
    }
    return SL_OK;
}

sl_status sl_piece_convert(const struct sl_piece *piece, const struct sl_piece_job *job, struct sl_out *out,
                           struct sl_err *err)
{
    size_t values = (size_t)SL_LANES * piece->k, bytes = values * sl_dtype_bytes(piece->dtype);
    if (piece->kind == SL_PIECE_PANELS) {
        struct conversion conversion = {piece, job->source};
        struct sl_blocks blocks = {.n = (uint64_t)piece->units * sl_piece_blocks(piece),
                                   .block_bytes = bytes,
                                   .threads = job->threads,
                                   .make = convert_block,
                                   .arg = &conversion};
        struct sl_quantise_report nothing = {0};
        return sl_blocks_run(&blocks, out, &nothing, err);
    }
    uint8_t *buffer = malloc(bytes);
    if (!buffer)
        return sl_fail(err, SL_E_NOMEM, "no memory to convert '%s'", piece->name);
    sl_status status = write_flat(piece, job->source, buffer, values, out, err);
    free(buffer);
    return status;
}
