/* What goes around the parts of a decode worker, as a peer could send it. The first byte chooses the reader. */
#include "pipeline/record/parts.h"
#include <stdlib.h>
#include <string.h>

enum { ROWS = 6 };
static const struct sl_step_limits limits = {ROWS, 4096, 5000};

static void require(bool holds)
{
    if (!holds)
        abort();
}

/* What was accepted can be used, and is written as it was read. */
static void read_step(const uint8_t *data, size_t bytes)
{
    size_t size = sl_step_bytes(ROWS);
    uint8_t in[256] = {0}, out[256];
    struct sl_step_row rows[ROWS];
    struct sl_step step = {.rows = rows};
    require(size <= sizeof in);
    memcpy(in, data, bytes < size ? bytes : size);
    if (sl_step_unpack(&step, in, size, &limits) != NULL)
        return;
    require(step.n <= ROWS);
    for (uint32_t i = 0; i < step.n; i++)
        require(rows[i].pos > 0 && rows[i].pos < limits.context_tokens && rows[i].id < limits.vocab);
    sl_step_pack(out, &step, ROWS);
    require(memcmp(in, out, size) == 0);
}

static void read_ends(const uint8_t *data, size_t bytes)
{
    uint8_t *copy = malloc(bytes + 1);
    memcpy(copy, data, bytes);
    struct sl_cursor in = sl_cursor_over(copy, bytes), out = in;
    struct sl_parts_end end;
    while (sl_parts_end_get(&in, &end, limits.context_tokens)) {
        require(end.n_tokens <= limits.context_tokens && end.status <= 0);
        sl_parts_end_put(&out, &end); /* in place, as a part does */
    }
    require(in.bad || in.at == in.end);
    require(memcmp(copy, data, bytes) == 0);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes == 0)
        return 0;
    if (data[0] & 1)
        read_step(data + 1, bytes - 1);
    else
        read_ends(data + 1, bytes - 1);
    return 0;
}
