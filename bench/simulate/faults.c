/* The names of faults, and the reading of lists of them (faults.h). */
#include "bench/simulate/faults.h"
#include <string.h>

static const char *const names[SL_SIM_FAULTS] = {
    [SL_SIM_DELAY] = "delay",
    [SL_SIM_REORDER] = "reorder",
    [SL_SIM_CLOG] = "clog",
    [SL_SIM_PARTITION] = "partition",
    [SL_SIM_CRASH] = "crash",
    [SL_SIM_FREEZE] = "freeze",
    [SL_SIM_SLOW] = "slow",
    [SL_SIM_CLOCK] = "clock",
    [SL_SIM_LOST_CLIENT] = "lost-client",
    [SL_SIM_LOST_STAGE] = "lost-stage",
};

const char *sl_sim_fault_name(enum sl_sim_fault fault)
{
    return names[fault];
}

static sl_status unknown(const char *text, size_t n, struct sl_err *err)
{
    char list[160] = "";
    for (uint32_t i = 0; i < SL_SIM_FAULTS; i++) {
        strcat(list, i ? ", " : "");
        strcat(list, names[i]);
    }
    return sl_fail(err, SL_E_USAGE, "--faults: \"%.*s\" is no fault; say none, all, or some of %s", (int)n,
                   text, list);
}

sl_status sl_sim_faults_parse(uint32_t *faults, const char *text, struct sl_err *err)
{
    *faults = 0;
    if (strcmp(text, "none") == 0)
        return SL_OK;
    if (strcmp(text, "all") == 0) {
        *faults = (1u << SL_SIM_FAULTS) - 1;
        return SL_OK;
    }
    for (const char *at = text;; at++) {
        size_t n = strcspn(at, ",");
        uint32_t i = 0;
        if ((n == 4 && memcmp(at, "none", n) == 0) || (n == 3 && memcmp(at, "all", n) == 0))
            return sl_fail(err, SL_E_USAGE, "--faults %.100s: none and all stand alone", text);
        while (i < SL_SIM_FAULTS && (strlen(names[i]) != n || memcmp(at, names[i], n) != 0))
            i++;
        if (i == SL_SIM_FAULTS)
            return unknown(at, n < 40 ? n : 40, err);
        *faults |= 1u << i;
        at += n;
        if (!*at)
            return SL_OK;
    }
}
