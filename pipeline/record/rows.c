/* The names of the ways that rows can go (rows.h). */
#include "pipeline/record/rows.h"

#include <string.h>

static const char *const names[SL_ROWS_WAYS] = {"staged", "ucx", "nccl"};

const char *sl_rows_name(enum sl_rows_way way)
{
    return names[way];
}

bool sl_rows_by_name(const char *name, enum sl_rows_way *way)
{
    for (int i = 0; i < SL_ROWS_WAYS; i++)
        if (strcmp(name, names[i]) == 0) {
            *way = (enum sl_rows_way)i;
            return true;
        }
    return false;
}
