/* From logits to a token: greedy or sampled, with log-probabilities. Pure: the random number of output token i of a
 * request depends on (seed, i) alone, so the same seed gives the same text in any batch and on any node.
 *
 * Order of the filters, as vLLM does it: temperature, then top-k, then top-p, then min-p; ties to the lower id.
 * Log-probabilities are of the raw logits (temperature 1, no filter): log softmax in f32 with a fixed order of summation. */
#ifndef SL_PIPELINE_STAGE_SAMPLE_H
#define SL_PIPELINE_STAGE_SAMPLE_H

#include "pipeline/record/token.h"

size_t sl_sample_scratch_bytes(uint32_t vocab);
/* logits: [vocab], not changed; -inf or NaN never comes out. index: number of the output token in its request.
 * scratch: sl_sample_scratch_bytes. */
void sl_sample(struct sl_token_out *out, const float *logits, uint32_t vocab,
               const struct sl_sampling *sampling, uint64_t index, void *scratch);
/* The log-probability of one given id and the top n of a row (prompt_logprobs, score). */
void sl_logprob_of(struct sl_token_out *out, const float *logits, uint32_t vocab, uint32_t id, uint32_t n_top,
                   void *scratch);

#endif
