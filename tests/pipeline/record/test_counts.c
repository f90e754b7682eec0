/* pipeline/record/counts.c: counts come back as they were, take no more than was planned, and malformed ones are refused. */
#include "base/rng.h"
#include "pipeline/record/counts.h"
#include "tests/check.h"
#include <stdlib.h>

enum { VOCAB = 151936, MOST = 40960 };

static int by_id(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static struct sl_counts room_for(uint32_t n)
{
    return (struct sl_counts){
        .room = n, .ids = calloc(n, sizeof(uint32_t)), .counts = calloc(n, sizeof(uint32_t))};
}

static uint32_t count_of(const struct sl_counts *c, uint32_t id)
{
    for (uint32_t i = 0; i < c->n; i++)
        if (c->ids[i] == id)
            return c->counts[i];
    return 0;
}

SL_TEST(the_counts_of_a_text_are_those_that_adding_its_ids_makes)
{
    struct sl_rng rng = {9, 0};
    for (uint32_t turn = 0; turn < 200; turn++) {
        uint32_t ids[600], n = (uint32_t)(sl_rng_next(&rng) % 600), total, vocab = turn % 2 ? VOCAB : 300;
        uint8_t bytes[4096];
        struct sl_counts added = room_for(600), read = room_for(600);
        for (uint32_t i = 0; i < n; i++) {
            ids[i] = (uint32_t)(sl_rng_next(&rng) % vocab);
            sl_counts_add(&added, ids[i]);
        }
        qsort(ids, n, sizeof *ids, by_id);
        size_t size = sl_counts_pack(bytes, ids, n, vocab);
        CHECK(size <= sl_counts_max_bytes(n, vocab));
        CHECK(sl_counts_read(&read, bytes, size, vocab, &total) == NULL);
        CHECK(total == n && read.n == added.n);
        for (uint32_t i = 0; i < read.n; i++)
            CHECK_INT(read.counts[i], count_of(&added, read.ids[i]));
        free(added.ids), free(added.counts), free(read.ids), free(read.counts);
    }
}

/* Every id once, the widest gaps, one id for ever: what takes most by each of its reasons. */
SL_TEST(no_text_of_a_context_takes_more_bytes_than_were_planned)
{
    static uint32_t ids[MOST];
    uint8_t *bytes = malloc(4 * MOST);
    const uint32_t steps[] = {0, 1, 3, 128, 129, 4000, 16384};
    for (size_t s = 0; s < sizeof steps / sizeof *steps; s++)
        for (uint32_t repeat = 1; repeat <= 400; repeat += 57) {
            uint32_t n = 0;
            for (uint32_t id = 0; n < MOST && id < VOCAB; id += steps[s])
                for (uint32_t k = 0; n < MOST && k < repeat; k++)
                    ids[n++] = id;
            CHECK(sl_counts_pack(bytes, ids, n, VOCAB) <= sl_counts_max_bytes(n, VOCAB));
        }
    free(bytes);
}

SL_TEST(malformed_counts_are_refused)
{
    static const struct {
        uint8_t bytes[8];
        size_t n;
    } bad[] = {
        {{5}, 1},                                    /* an id without a count */
        {{0x85}, 1},                                 /* it does not end */
        {{5, 0}, 2},                                 /* never */
        {{0x85, 0, 1}, 3},                           /* longer than it need be */
        {{100, 1}, 2},                               /* outside the vocabulary of 100 */
        {{60, 1, 60, 1}, 4},                         /* likewise, by the sum */
        {{0xff, 0xff, 0xff, 0xff, 0xff, 1, 1}, 7},   /* too long a number */
        {{0xff, 0xff, 0xff, 0xff, 0x1f, 1}, 6},      /* above 2^32 */
        {{0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 1}, 8} /* a text that is longer than can be */
    };
    uint32_t n;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (!sl_counts_read(NULL, bad[i].bytes, bad[i].n, 100, &n))
            sl_test_fail(__FILE__, __LINE__, "counts %zu were accepted", i);
    CHECK(sl_counts_read(NULL, NULL, 0, 100, &n) == NULL && n == 0);
    struct sl_counts one = room_for(1);
    const uint8_t two[] = {1, 1, 1, 1};
    CHECK(sl_counts_read(&one, two, sizeof two, 100, &n) != NULL);
    CHECK(sl_counts_read(NULL, two, sizeof two, 100, &n) == NULL && n == 2);
    free(one.ids), free(one.counts);
}
