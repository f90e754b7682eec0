/* Records of the order log and the messages beside it, as a peer could send them. The first byte chooses the reader. */
#include "pipeline/record/messages.h"
#include "pipeline/record/order.h"
#include <stdlib.h>
#include <string.h>

enum { STAGES = 2, CHUNK = 16 };
static const struct sl_order_limits limits = {STAGES, CHUNK, 4096, 4096, 1000, 1000, 4};

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
        uint8_t *again = calloc(1, size); /* steering lies in the first */
        sl_order_pack(again, &order, ids, pages, &limits);
        free(pages);
        if (sl_order_unpack(&order, again, size, &limits) != NULL)
            abort();
        free(again);
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
    for (uint32_t i = 0; i < head.n_slices && sl_result_get_slice(&in, &slice); i++) {
        if (slice.n_more >= SL_MAX_N)
            abort();
        for (uint32_t j = 0; j < slice.n_prompt && sl_token_get(&in, &token); j++)
            if (token.n_top > SL_MAX_LOGPROBS)
                abort();
    }
}

/* What was accepted can be used, and is written as it was read. */
static void read_adopt(const struct sl_adopt *adopt)
{
    uint64_t seen[4096 / 64] = {0};
    struct sl_steering steering;
    if (adopt->n_stops > SL_MAX_DECODE_STOPS ||
        sl_steering_read(&steering, adopt->steering, adopt->steering_bytes, limits.vocab) != NULL)
        abort();
    sl_steering_mark(&steering, seen);
    uint8_t *out = malloc(sl_adopt_max_bytes(limits.context_tokens, limits.vocab));
    struct sl_adopt back;
    if (sl_adopt_unpack(&back, out, sl_adopt_pack(out, adopt), &limits) != NULL)
        abort();
    free(out);
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
    struct sl_spoiled_word word;
    switch (data[0] % 5) {
    case 0:
        read_order(copy + 1, bytes - 1);
        break;
    case 1:
        read_result(in);
        break;
    case 2:
        if (sl_adopt_unpack(&adopt, copy + 1, bytes - 1, &limits) == NULL && adopt.kind != SL_ADOPT_CANCEL)
            read_adopt(&adopt);
        break;
    case 4:
        if (sl_spoiled_unpack(&word, copy + 1, bytes - 1) == NULL) {
            uint8_t again[SL_SPOILED_BYTES];
            if (strchr(word.sentence, '\n') || sl_spoiled_pack(again, &word) != bytes - 1)
                abort();
        }
        break;
    default:
        while (sl_tokens_get(&in, &entry))
            ;
    }
    free(copy);
    return 0;
}
