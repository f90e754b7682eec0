/* pipeline/record/parts.c: what is written is read, and what can't be is refused. */
#include "base/dtype.h"
#include "pipeline/record/parts.h"
#include "tests/check.h"
#include <stdlib.h>

enum { ROWS = 5 };
static const struct sl_step_limits limits = {ROWS, 1000, 4096};

static size_t pack(uint8_t *out, uint32_t n)
{
    struct sl_step_row rows[ROWS];
    for (uint32_t i = 0; i < n; i++)
        rows[i] = (struct sl_step_row){UINT64_C(1) << 40 | i, 1 + i * 200, 4095 - i};
    sl_step_pack(out, &(struct sl_step){77, n, rows}, ROWS);
    return sl_step_bytes(ROWS);
}

SL_TEST(a_step_is_read_as_it_was_written)
{
    uint8_t bytes[256];
    for (uint32_t n = 0; n <= ROWS; n++) {
        struct sl_step_row rows[ROWS];
        struct sl_step step = {.rows = rows};
        size_t size = pack(bytes, n);
        CHECK(size % 64 == 0 && size <= sizeof bytes);
        CHECK(sl_step_unpack(&step, bytes, size, &limits) == NULL);
        CHECK(step.number == 77 && step.n == n);
        for (uint32_t i = 0; i < n; i++)
            CHECK(rows[i].seq == (UINT64_C(1) << 40 | i) && rows[i].pos == 1 + i * 200 &&
                  rows[i].id == 4095 - i);
    }
}

static const char *refusal(uint32_t at, uint8_t value, size_t size)
{
    uint8_t bytes[256];
    struct sl_step_row rows[ROWS];
    struct sl_step step = {.rows = rows};
    pack(bytes, 3);
    bytes[at] = value;
    return sl_step_unpack(&step, bytes, size, &limits);
}

SL_TEST(a_step_that_cannot_be_is_refused)
{
    size_t size = sl_step_bytes(ROWS);
    CHECK_STR(refusal(0, 77, size - 1), "step size");
    CHECK_STR(refusal(4, ROWS + 1, size), "number of rows of a step");
    CHECK_STR(refusal(7, 0x80, size), "number of rows of a step");
    CHECK_STR(refusal(8 + 8, 0, size), "a row of a step");         /* the first position is the prompt's */
    CHECK_STR(refusal(8 + 16 + 10, 1, size), "a row of a step");   /* beyond the context */
    CHECK_STR(refusal(8 + 12 + 1, 0x10, size), "a row of a step"); /* beyond the vocabulary */
    CHECK_STR(refusal(8 + 16, 0, size), "a sequence twice in a step");
    CHECK_STR(refusal(8 + 3 * 16, 1, size), "bytes behind the rows of a step");
    CHECK_STR(refusal((uint32_t)size - 1, 1, size), "bytes behind the rows of a step");
}

SL_TEST(the_rows_of_a_step_are_those_that_its_header_names)
{
    struct sl_step step = {.n = 3};
    struct sl_wire wire = {.meta_bytes = 64};
    sl_step_set_rows(&step, &wire, 32);
    CHECK_INT(wire.payload_bytes, 64 + 3 * 32 * 4);
    CHECK(sl_step_has_rows(&step, &wire, 32) && !sl_step_has_rows(&step, &wire, 64));
    step.n = 2;
    CHECK(!sl_step_has_rows(&step, &wire, 32));
    wire.dtype = SL_BF16;
    step.n = 3;
    CHECK(!sl_step_has_rows(&step, &wire, 32));
    step.n = 0; /* none is left of it */
    CHECK(!sl_step_has_rows(&step, &wire, 32));
    sl_step_set_rows(&step, &wire, 32);
    CHECK(wire.payload_bytes == 64 && sl_step_has_rows(&step, &wire, 32));
}

static bool is_read(const struct sl_parts_end *end, size_t bytes)
{
    uint8_t room[SL_PARTS_END_BYTES];
    struct sl_parts_end back = {0};
    struct sl_cursor out = sl_cursor_over(room, sizeof room), in = sl_cursor_over(room, bytes);
    sl_parts_end_put(&out, end);
    CHECK(!out.bad && out.at == out.end);
    bool read = sl_parts_end_get(&in, &back, limits.context_tokens);
    CHECK(read != in.bad);
    return read && back.seq == end->seq && back.status == end->status && back.n_tokens == end->n_tokens &&
           back.kv_digest == end->kv_digest && back.logits_digest == end->logits_digest;
}

SL_TEST(an_end_is_read_as_it_was_written_and_one_that_cannot_be_is_refused)
{
    struct sl_parts_end end = {UINT64_MAX, SL_OK, 1000, 5, UINT64_MAX - 1};
    struct sl_cursor none = sl_cursor_over(NULL, 0);
    CHECK(is_read(&end, SL_PARTS_END_BYTES) && !is_read(&end, SL_PARTS_END_BYTES - 1));
    CHECK(!sl_parts_end_get(&none, &end, 1000) && !none.bad);
    end.n_tokens = 1001;
    CHECK(!is_read(&end, SL_PARTS_END_BYTES));
    end.n_tokens = 1;
    end.status = SL_E_CORRUPT; /* has no digest */
    CHECK(!is_read(&end, SL_PARTS_END_BYTES));
    end.n_tokens = 0;
    CHECK(is_read(&end, SL_PARTS_END_BYTES));
    end.status = SL_AGAIN;
    CHECK(!is_read(&end, SL_PARTS_END_BYTES));
    end.status = SL_E_INTERNAL - 1;
    CHECK(!is_read(&end, SL_PARTS_END_BYTES));
}
