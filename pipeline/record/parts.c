/* The records of parts.h, as bytes: written into room that was planned with sl_step_bytes and SL_PARTS_END_BYTES, read with every check. */
#include "pipeline/record/parts.h"
#include "base/dtype.h"
#include <assert.h>
#include <string.h>

enum { STEP_HEAD = 8, STEP_ROW = 16 };

size_t sl_step_bytes(uint32_t max_rows)
{
    return (STEP_HEAD + (size_t)max_rows * STEP_ROW + 63) / 64 * 64;
}

void sl_step_pack(uint8_t *out, const struct sl_step *step, uint32_t max_rows)
{
    size_t bytes = sl_step_bytes(max_rows);
    struct sl_cursor c = sl_cursor_over(out, bytes);
    memset(out, 0, bytes);
    sl_cursor_put32(&c, step->number);
    sl_cursor_put32(&c, step->n);
    for (uint32_t i = 0; i < step->n; i++) {
        sl_cursor_put64(&c, step->rows[i].seq);
        sl_cursor_put32(&c, step->rows[i].pos);
        sl_cursor_put32(&c, step->rows[i].id);
    }
    assert(!c.bad && step->n <= max_rows);
}

static bool has_before(const struct sl_step *step, uint32_t i)
{
    for (uint32_t j = 0; j < i; j++)
        if (step->rows[j].seq == step->rows[i].seq)
            return true;
    return false;
}

const char *sl_step_unpack(struct sl_step *step, const uint8_t *in, size_t bytes,
                           const struct sl_step_limits *limits)
{
    if (bytes != sl_step_bytes(limits->max_rows))
        return "step size";
    struct sl_cursor c = sl_cursor_over((uint8_t *)(uintptr_t)in, bytes);
    step->number = sl_cursor_get32(&c);
    step->n = sl_cursor_get32(&c);
    if (step->n > limits->max_rows)
        return "number of rows of a step";
    for (uint32_t i = 0; i < step->n; i++) {
        struct sl_step_row *row = &step->rows[i];
        row->seq = sl_cursor_get64(&c);
        row->pos = sl_cursor_get32(&c);
        row->id = sl_cursor_get32(&c);
        if (row->pos == 0 || row->pos >= limits->context_tokens || row->id >= limits->vocab)
            return "a row of a step";
        if (has_before(step, i))
            return "a sequence twice in a step";
    }
    while (c.at < c.end)
        if (*c.at++ != 0)
            return "bytes behind the rows of a step";
    return NULL;
}

void sl_step_set_rows(const struct sl_step *step, struct sl_wire *wire, uint32_t d_model)
{
    wire->payload_bytes = wire->meta_bytes + (uint64_t)step->n * d_model * sizeof(float);
    wire->rank = step->n ? 2 : 0;
    wire->dtype = step->n ? SL_F32 : 0;
    wire->shape[0] = step->n;
    wire->shape[1] = step->n ? d_model : 0;
}

bool sl_step_has_rows(const struct sl_step *step, const struct sl_wire *wire, uint32_t d_model)
{
    if (step->n == 0)
        return wire->rank == 0;
    return wire->rank == 2 && wire->dtype == SL_F32 && wire->shape[0] == step->n && wire->shape[1] == d_model;
}

void sl_parts_end_put(struct sl_cursor *c, const struct sl_parts_end *end)
{
    sl_cursor_put64(c, end->seq);
    sl_cursor_put32(c, (uint32_t)end->status);
    sl_cursor_put32(c, end->n_tokens);
    sl_cursor_put64(c, end->kv_digest);
    sl_cursor_put64(c, end->logits_digest);
}

bool sl_parts_end_get(struct sl_cursor *c, struct sl_parts_end *end, uint32_t context_tokens)
{
    if (c->at == c->end)
        return false;
    end->seq = sl_cursor_get64(c);
    end->status = (int32_t)sl_cursor_get32(c);
    end->n_tokens = sl_cursor_get32(c);
    end->kv_digest = sl_cursor_get64(c);
    end->logits_digest = sl_cursor_get64(c);
    if (end->status > SL_OK || end->status < SL_E_INTERNAL || end->n_tokens > context_tokens ||
        (end->status != SL_OK && end->n_tokens))
        c->bad = true;
    return !c->bad;
}
