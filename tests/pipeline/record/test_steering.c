/* pipeline/record/steering.c: what is written is what is read, sizes are what is planned, and nothing else is believed. */
#include "base/rng.h"
#include "pipeline/record/steering.h"
#include "tests/check.h"
#include <math.h>
#include <stdlib.h>

enum { VOCAB = 1000, WORDS = (VOCAB + 63) / 64 };

static uint8_t bytes[12 + 8 * SL_MAX_LOGIT_BIAS + VOCAB / 8 + 8];

static uint32_t pack(const struct sl_bias *bias, uint32_t n_bias, const uint32_t *ids, uint32_t n_ids)
{
    uint64_t seen[WORDS] = {0};
    uint32_t n = sl_ids_mark(seen, ids, n_ids), size = sl_steering_bytes(n_bias, n, VOCAB);
    CHECK(size <= sl_steering_max_bytes(VOCAB) && size % 4 == 0);
    sl_steering_pack(bytes, bias, n_bias, seen, n, VOCAB);
    return size;
}

SL_TEST(ids_and_biases_come_back_whether_as_list_or_as_bitmap)
{
    struct sl_rng rng = {1, 0};
    static uint32_t ids[3 * VOCAB];
    static const struct sl_bias bias[] = {{0, -100}, {5, 0.25f}, {VOCAB - 1, 100}};
    bool lists = false, bitmaps = false;
    for (uint32_t n = 0; n < 300; n++) {
        uint64_t want[WORDS] = {0}, got[WORDS] = {0};
        for (uint32_t i = 0; i < n; i++)
            ids[i] = i == 7 ? VOCAB - 1 : (uint32_t)(sl_rng_next(&rng) % VOCAB);
        uint32_t distinct = sl_ids_mark(want, ids, n), size = pack(bias, n % 4, ids, n);
        struct sl_steering s;
        REQUIRE(sl_steering_read(&s, bytes, size, VOCAB) == NULL);
        CHECK_INT(s.n_ids, distinct);
        CHECK_INT(s.n_bias, n % 4);
        sl_steering_mark(&s, got);
        CHECK(memcmp(got, want, sizeof got) == 0);
        for (uint32_t i = 0; i < s.n_bias; i++)
            CHECK(sl_steering_bias(&s, i).id == bias[i].id && sl_steering_bias(&s, i).value == bias[i].value);
        lists = lists || (s.n_ids && !s.is_bitmap);
        bitmaps = bitmaps || s.is_bitmap;
    }
    CHECK(lists && bitmaps);
}

SL_TEST(nothing_has_no_bytes_and_everything_has_the_planned)
{
    static uint32_t ids[VOCAB];
    static struct sl_bias bias[SL_MAX_LOGIT_BIAS];
    static uint8_t room[12 + 8 * SL_MAX_LOGIT_BIAS + 4096];
    struct sl_steering s;
    CHECK_INT(sl_steering_bytes(0, 0, VOCAB), 0);
    CHECK(sl_steering_read(&s, NULL, 0, VOCAB) == NULL);
    CHECK_INT(s.n_ids + s.n_bias, 0);
    enum { MANY = 5000 };
    uint64_t seen[(MANY + 63) / 64] = {0};
    for (uint32_t i = 0; i < VOCAB; i++)
        ids[i] = 5 * i;
    for (uint32_t i = 0; i < SL_MAX_LOGIT_BIAS; i++)
        bias[i] = (struct sl_bias){2 * i, 1};
    CHECK_INT(sl_ids_mark(seen, ids, VOCAB), VOCAB);
    CHECK_INT(sl_ids_mark(seen, ids, VOCAB), 0);
    CHECK_INT(sl_steering_bytes(SL_MAX_LOGIT_BIAS, VOCAB, MANY), sl_steering_max_bytes(MANY));
    sl_steering_pack(room, bias, SL_MAX_LOGIT_BIAS, seen, VOCAB, MANY);
    CHECK(sl_steering_read(&s, room, sl_steering_max_bytes(MANY), MANY) == NULL);
}

static void refuse(uint32_t size)
{
    struct sl_steering s;
    CHECK(sl_steering_read(&s, bytes, size, VOCAB) != NULL);
}

SL_TEST(what_is_out_of_range_is_refused)
{
    static const uint32_t ids[] = {3, 9, VOCAB - 1};
    static uint32_t many[200];
    struct sl_bias bias[2] = {{1, 1}, {2, 2}};
    struct sl_steering s;
    uint32_t size = pack(bias, 2, ids, 3);
    CHECK(sl_steering_read(&s, bytes, size, VOCAB) == NULL);
    for (uint32_t n = 1; n < size; n++) /* every truncation, and one too many */
        refuse(n);
    refuse(size + 4);
    const float wrong[] = {100.5f, -101, NAN, INFINITY};
    for (int i = 0; i < 4; i++) {
        bias[1].value = wrong[i];
        refuse(pack(bias, 2, ids, 3));
    }
    bias[1] = (struct sl_bias){VOCAB, 1};
    refuse(pack(bias, 2, ids, 3));
    bias[1] = (struct sl_bias){1, 1}; /* twice */
    refuse(pack(bias, 2, ids, 3));
    size = pack(bias, 1, ids, 3);
    sl_put32(bytes + size - 4, VOCAB); /* the last id */
    refuse(size);
    sl_put32(bytes + size - 4, 9); /* the one before */
    refuse(size);
    size = pack(bias, 1, ids, 3);
    sl_put32(bytes + 8, 1); /* a list that says it is a bitmap */
    refuse(size);
    sl_put32(bytes, UINT32_MAX);
    refuse(size);
    for (uint32_t i = 0; i < 200; i++)
        many[i] = 3 * i;
    size = pack(NULL, 0, many, 200);
    CHECK(sl_steering_read(&s, bytes, size, VOCAB) == NULL && s.is_bitmap);
    bytes[size - 1] ^= 0x80; /* behind the vocabulary */
    refuse(size);
    bytes[size - 1] ^= 0x80;
    bytes[20] ^= 1; /* one more or one less than it says */
    refuse(size);
}

SL_TEST(random_bytes_are_never_believed)
{
    static uint32_t many[200];
    struct sl_rng rng = {2, 0};
    static const struct sl_bias bias[] = {{4, 1}, {10, -3}};
    for (uint32_t i = 0; i < 200; i++)
        many[i] = 3 * i;
    for (int turn = 0; turn < 20000; turn++) {
        uint64_t seen[WORDS] = {0};
        struct sl_steering s;
        uint32_t size = pack(bias, 2, many, turn % 2 ? 200 : 5);
        uint8_t *exact = malloc(size); /* so that a sanitizer sees every byte read too far */
        memcpy(exact, bytes, size);
        exact[sl_rng_next(&rng) % size] ^= (uint8_t)sl_rng_next(&rng);
        if (sl_steering_read(&s, exact, size, VOCAB) == NULL)
            sl_steering_mark(&s, seen);
        free(exact);
    }
}
