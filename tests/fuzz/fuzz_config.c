/* Fuzzing of config.json and generation_config.json: the input is the first text, and after a zero
 * byte the second.
 *
 * Accepted switches must be such that every size computed from them fits, and no table is indexed
 * beyond its end. */
#include "model/shape.h"
#include <assert.h>
#include <math.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check(const struct sl_shape *s)
{
    assert(s->n_layers >= 1 && s->n_layers <= SL_MAX_LAYERS);
    assert(s->d_model >= 1 && s->vocab >= 1 && s->vocab <= 1u << 20 && s->max_pos >= 1);
    assert(s->n_kv >= 1 && s->n_q % s->n_kv == 0);
    assert(s->d_head >= 2 && s->d_head <= SL_MAX_HEAD && s->d_head % 2 == 0);
    assert((uint64_t)s->d_head * (s->n_q + 2 * s->n_kv) <= 1u << 24);
    assert((uint64_t)s->n_experts * s->d_expert <= UINT32_MAX);
    for (uint32_t i = 0; i < s->n_layers; i++) {
        assert(s->is_moe[i] <= 1);
        if (s->is_moe[i])
            assert(s->top_k >= 1 && s->top_k <= s->n_experts && s->top_k <= SL_MAX_TOP_K &&
                   s->n_experts <= 4096 && s->d_expert >= 1);
        else
            assert(s->d_dense >= 1);
    }
    for (uint32_t i = 0; i < s->d_head / 2; i++)
        assert(isfinite(s->rope_inv_freq[i]));
    assert(isfinite(s->rope_factor) && isfinite(s->norm_eps) && s->softmax_scale > 0);
    assert(s->n_eos <= SL_MAX_EOS);
    for (uint32_t i = 0; i < s->n_eos; i++)
        assert(s->eos[i] < s->vocab);
    assert(s->bos >= -1 && s->bos < (int64_t)s->vocab && s->pad >= -1 && s->pad < (int64_t)s->vocab);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const char *config = (const char *)data;
    const char *zero = bytes ? memchr(config, 0, bytes) : NULL;
    size_t config_bytes = zero ? (size_t)(zero - config) : bytes;
    struct sl_shape shape;
    struct sl_err err = {SL_OK, ""};
    sl_status status = sl_shape_parse(&shape, config, config_bytes, zero ? zero + 1 : NULL,
                                      zero ? bytes - config_bytes - 1 : 0, &err);
    if (status == SL_OK)
        check(&shape);
    else
        assert(strlen(err.text) > 0 && !strchr(err.text, '\n'));
    return 0;
}
