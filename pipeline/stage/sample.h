/* From logits to a token: greedy or sampled, with log-probabilities. Pure: the random number of output token i of a
 * request depends on (seed, i) alone, so the same seed gives the same text in any batch and on any node.
 *
 * The order is that of vLLM V1 (the steps that the docstring of vllm/v1/sample/sampler.py lists), so that a request means the
 * same here and there:
 *
 *   1. min_tokens: ids that would end the text are -inf
 *   2. logit_bias: x += bias
 *   3. penalties, of ids that were seen, each from the result of the one before:
 *        repetition, prompt and output:  x = x > 0 ? x / p : x * p     (Keskar et al. 2019, arXiv 1909.05858, for x > 0)
 *        frequency, output:              x -= f * count
 *        presence, output:               x -= q
 *      the last two as OpenAI's API reference writes them: mu[j] -> mu[j] - c[j] * f - (c[j] > 0) * q
 *   4. temperature 0: the largest; else temperature, then min-p (of the largest), then top-k, then top-p (of what those left),
 *      then a draw. Ties go to the lower id.
 *
 * Each step of 2 and 3 is one rounding in f32, so it has the same bits everywhere, and a number that was finite stays so.
 * Log-probabilities are of the raw logits (vLLM's logprobs_mode raw_logprobs: temperature 1, no filter, nothing of 1 to 3):
 * log softmax in f32 with a fixed order of summation. */
#ifndef SL_PIPELINE_STAGE_SAMPLE_H
#define SL_PIPELINE_STAGE_SAMPLE_H

#include "pipeline/record/counts.h"
#include "pipeline/record/steering.h"
#include "pipeline/record/token.h"

struct sl_seen { /* what moves the logits of one token; zeros: nothing does. Ids are below vocab */
    const struct sl_steering *steering; /* its bias; NULL: none */
    const uint64_t *prompt;             /* bitmap of the prompt's ids, for repetition; NULL: none */
    uint32_t n_ids;                     /* distinct ids of the output so far, and how often each */
    const uint32_t *ids, *counts;
    uint32_t n_banned; /* that may not come yet; those outside the vocabulary never do */
    const uint32_t *banned;
};

size_t sl_sample_scratch_bytes(uint32_t vocab);
/* logits: [vocab], worked in and left as they were; -inf or NaN never comes out. seen: NULL is nothing. index: number of the
 * output token in its request. scratch: sl_sample_scratch_bytes. */
void sl_sample(struct sl_token_out *out, float *logits, uint32_t vocab, const struct sl_sampling *sampling,
               const struct sl_seen *seen, uint64_t index, void *scratch);
/* The log-probability of one given id and the top n of a row (prompt_logprobs, score). */
void sl_logprob_of(struct sl_token_out *out, const float *logits, uint32_t vocab, uint32_t id, uint32_t n_top,
                   void *scratch);

#endif
