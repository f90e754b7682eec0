/* base/http/curl.c: libcurl is there when it is asked for, and a sentence when it is not. */
#include "base/http/curl.h"
#include "tests/check.h"

SL_TEST(a_table_is_filled_once_and_works)
{
    const struct sl_curl *curl, *again;
    struct sl_err err;
    if (sl_curl_open(&curl, "a test", &err) != SL_OK) {
        sl_test_skip(err.text);
        return;
    }
    CHECK_INT(sl_curl_open(&again, "a test", &err), SL_OK);
    CHECK(curl == again);
    CURL *easy = curl->easy_init();
    CHECK(easy != NULL);
    CHECK_INT(curl->easy_setopt(easy, CURLOPT_URL, "nothing://here"), CURLE_OK);
    CHECK_INT(curl->easy_perform(easy), CURLE_UNSUPPORTED_PROTOCOL);
    curl->easy_cleanup(easy);
}

SL_TEST(what_is_missing_is_named_with_who_wanted_it_and_a_remedy)
{
    struct sl_curl table;
    struct sl_err err;
    CHECK_INT(sl_curl_open_file(&table, "libnothing.so.4", "--otlp-endpoint", &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "--otlp-endpoint needs libcurl, which cannot be opened (libnothing.so.4");
    CHECK_CONTAINS(err.text, "install libcurl4");
    CHECK_INT(sl_curl_open_file(&table, "libc.so.6", "--openai", &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "--openai needs libcurl, and libc.so.6 has no curl_easy_init");
}
