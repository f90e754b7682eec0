/* From logits to a token: greedy or sampled, with log-probabilities. Pure: the random number of output token i of a
 * request depends on (seed, i) alone, so the same seed gives the same text in any batch and on any node.
 *
 * Order of the filters, as vLLM does it: temperature, then top-k, then top-p, then min-p; ties to the lower id.
 * Log-probabilities are of the raw logits (temperature 1, no filter): log softmax in f32 with a fixed order of summation. */
#ifndef SL_PIPELINE_SAMPLE_H
#define SL_PIPELINE_SAMPLE_H

#include "base/status.h"
#include <stdint.h>

enum { SL_MAX_LOGPROBS = 20 };

struct sl_sampling {
    float temperature; /* 0: greedy */
    uint32_t top_k;    /* 0: off */
    float top_p;       /* 1: off */
    float min_p;       /* 0: off */
    uint64_t seed;
    int32_t n_logprobs; /* -1: none wanted; 0: of the chosen token; k: and of the k best */
};

struct sl_token_out {
    uint32_t id;
    float logprob;
    uint32_t n_top;
    uint32_t top_ids[SL_MAX_LOGPROBS];
    float top_logprobs[SL_MAX_LOGPROBS];
};

/* SL_E_INVALID with the field's name: NaN, negative temperature, top_p outside (0, 1], min_p outside [0, 1], ... */
sl_status sl_sampling_check(const struct sl_sampling *sampling, struct sl_err *err);

size_t sl_sample_scratch_bytes(uint32_t vocab);
/* logits: [vocab], not changed; -inf or NaN never comes out. index: number of the output token in its request.
 * scratch: sl_sample_scratch_bytes. */
void sl_sample(struct sl_token_out *out, const float *logits, uint32_t vocab,
               const struct sl_sampling *sampling, uint64_t index, void *scratch);
/* The log-probability of one given id and the top n of a row (prompt_logprobs, score). */
void sl_logprob_of(struct sl_token_out *out, const float *logits, uint32_t vocab, uint32_t id, uint32_t n_top,
                   void *scratch);

#endif
