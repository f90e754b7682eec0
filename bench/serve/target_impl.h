/* The seam between what sends a load and how it travels: private to the room. */
#ifndef SL_BENCH_SERVE_TARGET_IMPL_H
#define SL_BENCH_SERVE_TARGET_IMPL_H

#include "bench/serve/target.h"

struct sl_target_ways {
    sl_status (*ready)(struct sl_target *target, uint64_t until_ns, struct sl_err *err);
    void (*send)(struct sl_target *target, uint32_t call, const struct sl_call_ask *ask);
    void (*cancel)(struct sl_target *target, uint32_t call);
    void (*poll)(struct sl_target *target, uint64_t until_ns);
    void (*close)(struct sl_target *target);
};

struct sl_target { /* the first member of either kind */
    const struct sl_target_ways *ways;
    struct sl_target_config config;
    char model[256];
    uint32_t vocabulary, context;
    bool is_ours;
};

/* A call ends as failed, with a sentence. */
void sl_target_fail(struct sl_target *target, uint32_t call, uint64_t at_ns, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* Sleeps until then, at most. */
void sl_target_nap(uint64_t until_ns);

#endif
