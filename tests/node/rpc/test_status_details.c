/* node/rpc/status_details.c: bytes that foreign clients unpack, beside those of their own library. */
#include "node/rpc/status_details.h"
#include "tests/check.h"

static bool is(const uint8_t *out, size_t n, const char *wanted, size_t wanted_bytes)
{
    return n == wanted_bytes && memcmp(out, wanted, n) == 0;
}
#define IS(out, n, wanted) CHECK(is(out, n, wanted, sizeof(wanted) - 1))
#define TYPE "\x0a\x28type.googleapis.com/google.rpc.RetryInfo"

/* As Python's google.rpc writes them: Status(code=8, message="full", details=[Any of RetryInfo(retry_delay=1.25 s)]). */
SL_TEST(it_is_what_another_library_writes)
{
    uint8_t out[SL_STATUS_DETAILS_BYTES];
    size_t n = sl_status_details_pack(out, 8, "full", 1250);
    IS(out, n,
       "\x08\x08\x12\x04"
       "full\x1a\x35" TYPE "\x12\x09\x0a\x07\x08\x01\x10\x80\xe5\x9a\x77");
    n = sl_status_details_pack(out, 14, "", 2000);
    IS(out, n, "\x08\x0e\x1a\x30" TYPE "\x12\x04\x0a\x02\x08\x02");
    n = sl_status_details_pack(out, 14, "", 0);
    IS(out, n, "\x08\x0e\x1a\x2e" TYPE "\x12\x02\x0a\x00");
}

SL_TEST(what_would_not_fit_or_is_no_ascii_is_left_out)
{
    uint8_t out[SL_STATUS_DETAILS_BYTES + 8];
    char sentence[SL_STATUS_DETAILS_BYTES + 1];
    uint32_t n_taken = 0;
    CHECK_INT(sl_status_details_pack(out, 8, "\xc3\xa9", 1), 0);
    for (size_t n = 0; n < sizeof sentence; n++) {
        memset(sentence, 'a', n);
        sentence[n] = 0;
        memset(out + SL_STATUS_DETAILS_BYTES, 0x5a, 8);
        size_t bytes = sl_status_details_pack(out, 16, sentence, UINT32_MAX);
        n_taken += bytes > 0;
        CHECK(bytes <= SL_STATUS_DETAILS_BYTES && out[SL_STATUS_DETAILS_BYTES] == 0x5a);
    }
    CHECK(n_taken > 320); /* the longest sentence of a status */
}
