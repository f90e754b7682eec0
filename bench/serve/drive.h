/* Sends a load on time and writes down what came of it. One thread; the server's speed changes nothing about when requests are
 * sent, except of those that wait for another by their nature: the next of a closed class, and the next turn of a conversation. */
#ifndef SL_BENCH_SERVE_DRIVE_H
#define SL_BENCH_SERVE_DRIVE_H

#include "bench/serve/report.h"
#include "bench/serve/target.h"
#include "bench/serve/workload.h"

struct sl_drive_config {
    uint32_t timeout_ms; /* of a request, from when it was due */
    uint32_t
        max_in_flight; /* the target's max_calls: what comes due beyond it is not sent, and counts as failed */
    double warm_up_s;  /* what is due before is sent and not measured */
    double temperature;
    bool own_length;          /* answers end where the model ends them */
    FILE *progress;           /* a line that is written over, NULL: none */
    const volatile int *stop; /* not 0: no more is sent, what runs is dropped */
    const char *run_name;     /* begins the request ids */
};

/* The target's callbacks, which the driver has: give them with user = a struct sl_drive when the target is opened. */
struct sl_drive;
sl_status sl_drive_new(struct sl_drive **drive, const struct sl_drive_config *config, struct sl_err *err);
void sl_drive_hook(struct sl_drive *drive, struct sl_target_config *config);
/* What prompts are; vocabulary: of ids. */
void sl_drive_prompts(struct sl_drive *drive, enum sl_prompt_form form, uint32_t vocabulary);
/* The load of the next run, and what its request ids begin with; the first stays the caller's. */
void sl_drive_load(struct sl_drive *drive, const struct sl_workload *workload, const char *run_name);
/* Runs the load once; run->outcomes and timelines are the caller's, sl_load_run_free. */
sl_status sl_drive_run(struct sl_drive *drive, struct sl_target *target, struct sl_load_run *run,
                       struct sl_err *err);
void sl_drive_free(struct sl_drive *drive);
void sl_load_run_free(struct sl_load_run *run);

/* The parts of the time to the first token, from a timeline (outcome.h). false: it has no spans of all stages. */
bool sl_split(const struct sl_timeline *timeline, uint64_t sent_ns, uint64_t first_ns,
              uint32_t parts_us[SL_PARTS]);

#endif
