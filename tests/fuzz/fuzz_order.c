/* Records of the order log and the messages beside it, as a peer could send them. The first byte chooses the reader. */
#include "pipeline/record/messages.h"
#include "pipeline/record/order.h"
#include <stdlib.h>
#include <string.h>

enum { STAGES = 2, CHUNK = 16 };
static const struct sl_order_limits limits = {STAGES, CHUNK, 4096, 4096, 1000, 1000};

static void read_order(const uint8_t *data, size_t bytes)
{
    size_t size = sl_order_meta_bytes(&limits);
    uint8_t *meta = calloc(1, size);
    memcpy(meta, data, bytes < size ? bytes : size);
    struct sl_order order;
    if (sl_order_unpack(&order, meta, size, &limits) == NULL && order.kind == SL_ORDER_RUN) {
        uint32_t ids[CHUNK], sum = 0;
        for (uint32_t i = 0; i < order.n_tokens; i++)
            ids[i] = sl_get32(sl_order_ids(meta, STAGES) + 4 * (size_t)i);
        for (uint32_t i = 0; i < order.n_slices; i++)
            sum += order.slices[i].n;
        if (sum != order.n_tokens)
            abort();
        /* what was accepted can be written again, and is accepted again */
        struct sl_page_numbers *pages = malloc((order.n_pages + 1) * sizeof *pages);
        for (uint32_t i = 0; i < order.n_pages; i++)
            pages[i] = sl_order_page(meta, &limits, i);
        sl_order_pack(meta, &order, ids, pages, &limits);
        free(pages);
        if (sl_order_unpack(&order, meta, size, &limits) != NULL)
            abort();
    }
    free(meta);
}

static void read_result(struct sl_cursor in)
{
    struct sl_result_head head;
    struct sl_result_slice slice;
    struct sl_token_out token;
    if (!sl_result_get_head(&in, &head, STAGES))
        return;
    for (uint32_t i = 0; i < head.n_slices && sl_result_get_slice(&in, &slice); i++)
        for (uint32_t j = 0; j < slice.n_prompt && sl_token_get(&in, &token); j++)
            if (token.n_top > SL_MAX_LOGPROBS)
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes == 0)
        return 0;
    uint8_t *copy = malloc(bytes); /* exact size, so that a sanitizer sees every byte read too far */
    memcpy(copy, data, bytes);
    struct sl_cursor in = sl_cursor_over(copy + 1, bytes - 1);
    struct sl_tokens_entry entry;
    struct sl_adopt adopt;
    switch (data[0] % 4) {
    case 0:
        read_order(copy + 1, bytes - 1);
        break;
    case 1:
        read_result(in);
        break;
    case 2:
        if (sl_adopt_unpack(&adopt, copy + 1, bytes - 1, &limits) == NULL &&
            adopt.n_stops > SL_MAX_DECODE_STOPS)
            abort();
        break;
    default:
        while (sl_tokens_get(&in, &entry))
            ;
    }
    free(copy);
    return 0;
}
