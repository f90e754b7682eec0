/* The answer that both ways fill: tokens as they arrive, and the timeline. It owns what it holds, so that it outlives the
 * reply or the piece that it was copied from. */
#include "node/client/client_impl.h"

#include <stdlib.h>
#include <string.h>

struct sl_token_out *sl_answer_add(struct sl_answer *answer, uint32_t n)
{
    if (n > UINT32_MAX / 4 - answer->n_tokens)
        return NULL;
    if (answer->n_tokens + n > answer->room) {
        uint32_t room = 2 * (answer->n_tokens + n) + 16;
        struct sl_token_out *more = realloc(answer->tokens, room * sizeof *more);
        if (!more)
            return NULL;
        answer->tokens = more;
        answer->room = room;
    }
    struct sl_token_out *added = answer->tokens + answer->n_tokens;
    memset(added, 0, n * sizeof *added);
    answer->n_tokens += n;
    return added;
}

sl_status sl_answer_set_timeline(struct sl_answer *answer, const struct sl_timeline *timeline)
{
    struct sl_span *spans = calloc(timeline->n_spans + 1u, sizeof *spans);
    struct sl_foreign *foreign = calloc(timeline->n_foreign + 1u, sizeof *foreign);
    if (!spans || !foreign) {
        free(spans);
        free(foreign);
        return SL_E_NOMEM;
    }
    if (timeline->n_spans > 0)
        memcpy(spans, timeline->spans, timeline->n_spans * sizeof *spans);
    if (timeline->n_foreign > 0)
        memcpy(foreign, timeline->foreign, timeline->n_foreign * sizeof *foreign);
    free((void *)(uintptr_t)answer->timeline.spans);
    free((void *)(uintptr_t)answer->timeline.foreign);
    answer->timeline = *timeline;
    answer->timeline.spans = spans;
    answer->timeline.foreign = foreign;
    answer->has_timeline = true;
    return SL_OK;
}

void sl_answer_free(struct sl_answer *answer)
{
    free(answer->prompt);
    free(answer->tokens);
    free((void *)(uintptr_t)answer->timeline.spans);
    free((void *)(uintptr_t)answer->timeline.foreign);
    memset(answer, 0, sizeof *answer);
}
