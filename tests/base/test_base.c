/* base/: errors, arena, pool, ring, histogram, digests, bytes, log levels, cpu mask. */
#include "base/arena.h"
#include "base/bytes.h"
#include "base/cpu.h"
#include "base/digest.h"
#include "base/hist.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/ring.h"
#include "base/rng.h"
#include "tests/check.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

SL_TEST(an_error_is_one_line_and_keeps_its_status)
{
    struct sl_err err;
    CHECK_INT(sl_fail(&err, SL_E_DATA, "tensor %s\nis short", "x\ty"), SL_E_DATA);
    CHECK_STR(err.text, "tensor x?y?is short");
    CHECK_INT(sl_err_prefix(&err, "layer %d", 3), SL_E_DATA);
    CHECK_STR(err.text, "layer 3: tensor x?y?is short");
    CHECK_INT(sl_fail(NULL, SL_E_IO, "nobody listens"), SL_E_IO);
    CHECK_INT(sl_status_exit_code(SL_E_USAGE), 64);
    CHECK_INT(sl_status_exit_code(SL_E_DATA), 65);
    CHECK_INT(sl_status_exit_code(SL_E_UNAVAILABLE), 69);
    CHECK_INT(sl_status_exit_code(SL_E_INTERNAL), 70);
    CHECK_INT(sl_status_exit_code(SL_E_CONFIG), 78);
}

SL_TEST(an_arena_gives_what_was_planned_and_no_more)
{
    struct sl_arena arena;
    REQUIRE(sl_arena_init(&arena, 3 * 64, NULL) == SL_OK);
    uint8_t *a = sl_arena_take(&arena, 1), *b = sl_arena_take(&arena, 64), *c = sl_arena_take(&arena, 64);
    REQUIRE(a && b && c);
    CHECK_INT(b - a, 64);
    CHECK_INT((uintptr_t)a % 64, 0);
    CHECK_INT(c[63], 0);
    CHECK(sl_arena_take(&arena, 1) == NULL);
    CHECK(sl_arena_take(&arena, SIZE_MAX) == NULL);
    sl_arena_fini(&arena);
    struct sl_err err;
    CHECK_INT(sl_arena_init(&arena, SIZE_MAX / 2, &err), SL_E_NOMEM);
    CHECK_CONTAINS(err.text, "MiB");
}

SL_TEST(a_pool_gives_each_number_once)
{
    struct sl_arena arena;
    struct sl_pool pool;
    REQUIRE(sl_arena_init(&arena, sl_pool_bytes(5), NULL) == SL_OK);
    REQUIRE(sl_pool_init(&pool, &arena, 5) == SL_OK);
    uint32_t seen = 0, id;
    for (int i = 0; i < 5; i++) {
        REQUIRE(sl_pool_take(&pool, &id) == SL_OK);
        CHECK(!(seen & 1u << id));
        seen |= 1u << id;
    }
    CHECK_INT(seen, 31);
    CHECK_INT(sl_pool_take(&pool, &id), SL_E_EXHAUSTED);
    sl_pool_give(&pool, 3);
    CHECK_INT(sl_pool_take(&pool, &id), SL_OK);
    CHECK_INT(id, 3);
    sl_arena_fini(&arena);
}

enum { N_ITEMS = 200000 };

static void *produce(void *arg)
{
    struct sl_ring *ring = arg;
    for (uint64_t i = 1; i <= N_ITEMS; i++)
        while (sl_ring_push(ring, &i) != SL_OK)
            sched_yield();
    return NULL;
}

SL_TEST(a_ring_hands_over_everything_in_order)
{
    struct sl_ring ring;
    CHECK_INT(sl_ring_init(&ring, 3, 8), SL_E_INTERNAL);
    REQUIRE(sl_ring_init(&ring, 64, sizeof(uint64_t)) == SL_OK);
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, produce, &ring) == 0);
    uint64_t wrong = 0;
    for (uint64_t i = 1, got; i <= N_ITEMS; i++) {
        while (sl_ring_pop(&ring, &got) != SL_OK)
            sched_yield();
        wrong += got != i;
    }
    pthread_join(thread, NULL);
    CHECK_INT(wrong, 0);
    sl_ring_fini(&ring);
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

SL_TEST(a_histogram_quantile_is_within_its_bucket)
{
    static struct sl_hist hist, other;
    static uint64_t values[20000];
    struct sl_rng rng = {7, 0};
    memset(&hist, 0, sizeof hist);
    memset(&other, 0, sizeof other);
    for (int i = 0; i < 20000; i++) {
        values[i] = sl_rng_next(&rng) >> (34 + sl_rng_next(&rng) % 28);
        sl_hist_add(i % 2 ? &hist : &other, values[i]);
    }
    sl_hist_merge(&hist, &other);
    qsort(values, 20000, sizeof *values, by_value);
    for (double q = 0; q < 1; q += 0.05) {
        uint64_t exact = values[(size_t)(q * 20000)], got = sl_hist_quantile(&hist, q);
        CHECK(got >= exact && got <= exact + exact / 16 + 1);
    }
    CHECK_INT(hist.count, 20000);
    CHECK_INT(sl_hist_count_le(&hist, UINT64_MAX), 20000);
    static const struct sl_hist empty;
    CHECK_INT(sl_hist_quantile(&empty, 0.5), 0);
}

SL_TEST(digests_have_their_published_values)
{
    CHECK_INT(sl_crc32c(0, "123456789", 9), 0xE3069283u); /* RFC 3720 */
    CHECK_INT(sl_crc32_zip(0, "123456789", 9), 0xCBF43926u);
    CHECK_INT(sl_crc32c(sl_crc32c(0, "1234", 4), "56789", 5), 0xE3069283u);
    char hex[65];
    uint8_t bytes[35];
    struct sl_sha256 *sha = sl_sha256_begin();
    REQUIRE(sha);
    sl_sha256_add(sha, "ab", 2);
    sl_sha256_add(sha, "c", 1);
    sl_sha256_end(sha, hex);
    CHECK_STR(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    uint8_t once[32], twice[32];
    sl_sha256_chain(NULL, "abc", 3, once);
    CHECK(memcmp(once, "\xba\x78\x16\xbf", 4) == 0 && memcmp(once + 28, "\xf2\x00\x15\xad", 4) == 0);
    sl_sha256_chain(once, "abc", 3, twice);
    memcpy(bytes, once, 32);
    memcpy(bytes + 32, "abc", 3);
    sl_sha256_chain(NULL, bytes, sizeof bytes, once);
    CHECK(memcmp(once, twice, 32) == 0);
    CHECK(sl_xxh3("", 0) == 0x2d06800538d394c2u); /* the empty input's published XXH3 */
}

SL_TEST(a_cursor_never_runs_over)
{
    uint8_t bytes[10] = {0};
    struct sl_cursor c = sl_cursor_over(bytes, sizeof bytes);
    sl_cursor_put64(&c, 0x0102030405060708u);
    CHECK(!c.bad);
    sl_cursor_put32(&c, 1);
    CHECK(c.bad);
    CHECK_INT(bytes[8], 0);
    c = sl_cursor_over(bytes, sizeof bytes);
    CHECK(sl_cursor_get64(&c) == 0x0102030405060708u);
    CHECK_INT(sl_cursor_get32(&c), 0);
    CHECK(c.bad);
    CHECK_INT(sl_cursor_get8(&c), 0); /* once bad, always bad */
}

SL_TEST(the_cpu_mask_refuses_what_it_does_not_know)
{
    uint32_t features;
    struct sl_err err;
    const char *before = getenv("SLUICE_CPU");
    char kept[32] = "";
    if (before)
        snprintf(kept, sizeof kept, "%s", before);
    setenv("SLUICE_CPU", "ref", 1);
    CHECK_INT(sl_cpu_features(&features, &err), SL_OK);
    CHECK_INT(features, 0);
    setenv("SLUICE_CPU", "fast", 1);
    CHECK_INT(sl_cpu_features(&features, &err), SL_E_CONFIG);
    CHECK_CONTAINS(err.text, "avx2");
    if (before)
        setenv("SLUICE_CPU", kept, 1);
    else
        unsetenv("SLUICE_CPU");
}

SL_TEST(random_numbers_depend_on_seed_and_index_alone)
{
    struct sl_rng rng = {42, 0};
    uint64_t first = sl_rng_next(&rng), second = sl_rng_next(&rng);
    CHECK(second == sl_rng_at(42, 1) && first == sl_rng_at(42, 0) && first != second);
    CHECK(sl_rng_at(43, 0) != first);
    double unit = sl_rng_unit(UINT64_MAX);
    CHECK(unit < 1.0 && sl_rng_unit(0) == 0.0);
    CHECK_INT(sl_log_level_from_name("warn", SL_LOG_INFO), SL_LOG_WARN);
    CHECK_INT(sl_log_level_from_name("loud", SL_LOG_INFO), SL_LOG_INFO);
}

/* Cases 1 and 2 of RFC 4231; zeros behind a key are what a short one is filled with. The digest of the chain is Python's, of its hmac. */
SL_TEST(an_hmac_is_that_of_its_rfc_for_any_length_and_with_a_key_that_is_kept)
{
    static const uint8_t one[32] = {0xb0, 0x34, 0x4c, 0x61, 0xd8, 0xdb, 0x38, 0x53, 0x5c, 0xa8, 0xaf,
                                    0xce, 0xaf, 0x0b, 0xf1, 0x2b, 0x88, 0x1d, 0xc2, 0x00, 0xc9, 0x83,
                                    0x3d, 0xa7, 0x26, 0xe9, 0x37, 0x6c, 0x2e, 0x32, 0xcf, 0xf7},
                         two[32] = {0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e, 0x6a, 0x04, 0x24,
                                    0x26, 0x08, 0x95, 0x75, 0xc7, 0x5a, 0x00, 0x3f, 0x08, 0x9d, 0x27,
                                    0x39, 0x83, 0x9d, 0xec, 0x58, 0xb9, 0x64, 0xec, 0x38, 0x43},
                         all[32] = {0x70, 0x2c, 0x41, 0xd6, 0x9c, 0xc3, 0x04, 0x86, 0xa7, 0x54, 0x2a,
                                    0xcc, 0xa8, 0x3b, 0x57, 0x6d, 0x98, 0xcd, 0x41, 0xdb, 0xc4, 0x5b,
                                    0x05, 0x5c, 0x70, 0x4e, 0x22, 0x45, 0x91, 0xf3, 0xca, 0x21};
    uint8_t key[32], text[200], mac[32], kept[32], chain[32];
    struct sl_hmac_key made;
    memset(key, 0, sizeof key);
    memset(key, 0x0b, 20);
    sl_hmac_sha256(key, "Hi There", 8, mac);
    CHECK(memcmp(mac, one, sizeof mac) == 0);
    memset(key, 0, sizeof key);
    memcpy(key, "Jefe", 4);
    sl_hmac_sha256(key, "what do ya want for nothing?", 28, mac);
    CHECK(memcmp(mac, two, sizeof mac) == 0);
    for (uint32_t i = 0; i < sizeof text; i++)
        text[i] = (uint8_t)(i * 7);
    memcpy(key, text + 50, sizeof key);
    sl_hmac_key(&made, key);
    for (size_t n = 0; n <= sizeof text; n++) {
        sl_hmac_sha256(key, text, n, mac);
        sl_hmac_with(&made, text, n, kept);
        CHECK(memcmp(mac, kept, sizeof mac) == 0);
        sl_sha256_chain(n ? chain : NULL, mac, sizeof mac, chain);
    }
    CHECK(memcmp(chain, all, sizeof all) == 0);
}

/* Cases 13 and 15 of the GCM specification's appendix B have text; 13 without any is the MAC of nothing. */
SL_TEST(a_gmac_is_gcm_of_no_text)
{
    static const uint8_t of_nothing[16] = {0x53, 0x0f, 0x8a, 0xfb, 0xc7, 0x45, 0x36, 0xb9,
                                           0xa9, 0x63, 0xb4, 0xf1, 0xc4, 0xcb, 0x73, 0x8b};
    uint8_t key[32] = {0}, text[300], mac[16], other[16];
    struct sl_gmac *g = sl_gmac_begin(key);
    REQUIRE(g != NULL);
    CHECK(sl_gmac_of(g, 0, text, 0, NULL, 0, mac) && memcmp(mac, of_nothing, sizeof mac) == 0);
    for (uint32_t i = 0; i < sizeof text; i++)
        text[i] = (uint8_t)(i * 11);
    CHECK(sl_gmac_of(g, 5, text, 128, text + 128, 172, mac) && sl_gmac_of(g, 5, text, 300, NULL, 0, other));
    CHECK(memcmp(mac, other, sizeof mac) == 0);
    CHECK(sl_gmac_of(g, 6, text, 300, NULL, 0, other) && memcmp(mac, other, sizeof mac) != 0);
    text[299] ^= 1;
    CHECK(sl_gmac_of(g, 5, text, 300, NULL, 0, other) && memcmp(mac, other, sizeof mac) != 0);
    sl_gmac_end(g);
}

SL_TEST(a_log_that_nobody_reads_takes_no_more_lines_that_can_be_spared)
{
    char bytes[4096] = "";
    int ends[2], kept = dup(STDERR_FILENO);
    REQUIRE(kept >= 0 && pipe2(ends, O_NONBLOCK) == 0);
    fflush(stderr);
    dup2(ends[1], STDERR_FILENO);
    bool before = sl_log_is_taken();
    while (write(ends[1], bytes, sizeof bytes) > 0)
        ;
    bool full = sl_log_is_taken();
    while (read(ends[0], bytes, sizeof bytes) > 0)
        ;
    bool again = sl_log_is_taken();
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(ends[0]);
    close(ends[1]);
    CHECK(before && !full && again);
}
