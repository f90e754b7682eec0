/* The kernels of `sluice bench kernels`, as cases: what one run does, on which operands, and how
 * many operations and bytes that is. How a case is timed is bench_kernels.c's.
 *
 * Shapes are those of a Qwen3-30B-A3B expert and attention group. A case "from memory" goes round
 * as many experts (or KV heads) as no cache holds, which is what a layer does with few rows; the
 * others stay on one. Weights are random bytes, made valid: speed does not depend on them. */
#ifndef SL_BENCH_KERNEL_CASES_H
#define SL_BENCH_KERNEL_CASES_H

#include "kernels/roofline.h"

struct sl_bench_lane { /* what one thread writes to */
    uint32_t member;
    void *scratch;
    float *hidden, *out;
    struct sl_rows8 hidden8;
};

struct sl_bench_case {
    const char *kernel, *format;
    char shape[32];
    uint32_t rows;
    double ops, bytes; /* of one run; bytes: weights and pages */
    enum sl_peak peak;
    enum sl_dtype dtype;
    size_t op; /* offset in sl_ops of the function it is about */
    void (*prepare)(const struct sl_bench_case *c);
    void (*run)(const struct sl_bench_case *c, const struct sl_ops *ops, const struct sl_bench_lane *lane);
    size_t row_floats; /* of the output that is compared, a row */
    uint32_t ref_rows; /* the reference does this many rows of the last round; its time is scaled up */
    uint32_t k, n;     /* inputs, outputs (of an expert: its intermediate size) */
    uint32_t n_rounds; /* experts or KV heads, one after the other; the last one's output is compared */
    uint32_t first;    /* 0, or the last round alone */
    uint32_t context;  /* attention: position of the last row, plus one */
};

/* The operands of all cases, one set a process. */
sl_status sl_bench_operands_init(uint32_t n_threads, struct sl_err *err);
void sl_bench_operands_fini(void);
struct sl_bench_lane sl_bench_lane(uint32_t member, void *scratch);
const void *sl_bench_memory(size_t *bytes); /* larger than caches: for the bandwidth beside a case */
size_t sl_bench_scratch_bytes(void);

/* Weights and a page of valid random numbers, the same of the same seed (floats of any). n: a multiple of 16. */
void sl_bench_random_panel(uint8_t *to, enum sl_dtype dtype, uint32_t n, uint32_t k, uint64_t seed);
void sl_bench_random_page(uint8_t *k, uint8_t *v, enum sl_dtype dtype, uint32_t d_head, uint64_t seed);

/* Calls each(arg, c) for every case, in the order of the report. c->prepare is the callee's to
 * call. */
void sl_bench_cases(void (*each)(void *arg, const struct sl_bench_case *c), void *arg);

#endif
