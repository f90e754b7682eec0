/* node/role/role_part.c and the chief of role_decode.c, stepped by hand: a decode worker that is cut into parts says what one that is
 * not says, and nothing of a sequence is left in any part when its end is told. */
#include "tests/node/role/world.h"

static const struct sl_sampling warm = {
    .temperature = 0.9f, .top_p = 0.95f, .seed = 11, .frequency_penalty = 0.5f, .n_logprobs = -1};

enum { SEQS = 5 };
static const uint32_t prompts[SEQS] = {70, 64, 1, 128, 30}, lengths[SEQS] = {9, 20, 30, 6, 1 + 12};

static const struct sl_sampling *sampling_of(uint32_t i)
{
    return i % 2 ? &w_greedy : &warm;
}

static struct w_world *open_parts(uint32_t n_stages, uint32_t n_parts)
{
    w_parts = n_parts;
    struct w_world *w = w_open(n_stages, SEQS, 40);
    w_parts = 1;
    return w;
}

static void check_empty(struct w_world *w)
{
    for (uint32_t part = 0; part < w->plan.n_parts; part++) {
        CHECK_INT(w_pages_used(w_part(w, part)), 0);
        CHECK_INT(sl_stage_sequences(w_part(w, part)->stage)->n_live, 0);
        CHECK_INT(w_part(w, part)->n_sent, 0);
    }
}

static void prefill(struct w_world *w)
{
    for (uint32_t i = 0; i < SEQS; i++) {
        CHECK_INT(w_write_run(w, 1 + i, prompts[i], sampling_of(i)), SL_OK);
        w_settle(w);
    }
}

static void generate(struct w_world *w)
{
    prefill(w);
    for (uint32_t i = 0; i < SEQS; i++)
        CHECK_INT(w_take(w, 1 + i, prompts[i], lengths[i], sampling_of(i)), SL_OK);
    w_settle(w);
}

SL_TEST(the_parts_of_a_decode_worker_say_what_one_alone_says)
{
    struct w_world *alone = open_parts(2, 1);
    generate(alone);
    for (uint32_t n_stages = 1; n_stages <= 3; n_stages++)
        for (uint32_t n_parts = 2; n_parts <= 3; n_parts++) {
            struct w_world *w = open_parts(n_stages, n_parts);
            generate(w);
            for (uint32_t i = 1; i <= SEQS; i++) {
                CHECK_INT(w->heard[i].ended, 1);
                CHECK_INT(w->heard[i].failed, SL_OK);
                CHECK_INT(w->heard[i].n, lengths[i - 1]);
                CHECK(memcmp(w->heard[i].ids, alone->heard[i].ids, sizeof w->heard[i].ids) == 0);
                CHECK(w->heard[i].logits_digest == alone->heard[i].logits_digest);
                CHECK(w->heard[i].kv_digest == alone->heard[i].kv_digest && w->heard[i].kv_digest != 0);
            }
            CHECK_INT(atomic_load(&w_decode(w)->meter.most_steps_under_way), n_parts);
            CHECK_INT(atomic_load(&w_decode(w)->meter.steps_under_way), 0);
            check_empty(w);
            w_close(w);
        }
    w_close(alone);
}
