/* What both sides of the scripted server share (scripted.h). */
#include "bench/serve/selftest/scripted.h"
#include <stdlib.h>
#include <string.h>

enum { LIE = 7 };

struct sl_turn *sl_scripted_turn(const char *id, uint32_t prompt_tokens, uint32_t max_tokens)
{
    struct sl_turn *turn = calloc(1, sizeof *turn);
    if (!turn)
        return NULL;
    turn->prompt_tokens = prompt_tokens;
    turn->max_tokens = max_tokens;
    if (*id && !(turn->id = strdup(id))) {
        free(turn);
        return NULL;
    }
    return turn;
}

void sl_scripted_usage(const struct sl_turn *turn, uint32_t n, uint32_t *prompt_tokens,
                       uint32_t *output_tokens)
{
    bool lies = turn->fault == SL_FAULT_USAGE_LIE;
    *prompt_tokens = turn->prompt_tokens + (lies ? LIE : 0);
    *output_tokens = lies ? 2 * n + LIE : n;
}
