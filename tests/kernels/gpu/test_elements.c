/* kernels/gpu/elements: embed, combine and the gate of a shared expert on the twin have the bits of kernels/ref, and nothing is
 * found. */
#define DRAW_SEED 20261133
#include "tests/kernels/gpu/elements_cases.h"

typedef struct gpu_outcome elements_go(const struct elements_case *c, uint64_t seed);

static struct gpu_outcome check(elements_go *go, const struct elements_case *c, uint64_t seed)
{
    struct gpu_outcome o = go(c, seed);
    expect_sound(&o, "%u rows of %u, %u experts%s", c->n_rows, c->n, c->k, c->bf16 ? ", bf16" : "");
    return o;
}

static void check_all(elements_go *go, const char *kernel, uint32_t width, uint32_t times)
{
    struct sweep s = sweep_of(kernel, 4);
    for (uint32_t i = 0; i < ELEMENTS_CASES; i++)
        check(go, &elements_cases[i], i);
    while (sweep_goes_on(&s)) {
        struct gpu_outcome o = check(go,
                                     &(struct elements_case){sweep_rows(&s, 40) * times, 1 + below(width),
                                                             below(ELEMENTS_EXPERTS_MOST), below(2)},
                                     s.n_cases);
        sweep_count(&s, &o);
    }
}

SL_TEST(embeddings_are_those_of_the_table)
{
    check_all(embed_go, "embed", 900, 1);
}

SL_TEST(experts_are_added_in_their_order)
{
    check_all(combine_go, "combine", 900, 1);
}

SL_TEST(gates_of_a_shared_expert_have_the_bits_of_the_host)
{
    check_all(sigmoid_go, "sigmoid", 100, getenv("SLUICE_SEEDS") ? 31 : 1); /* a row is one output */
}
