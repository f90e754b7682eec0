/* The zip writer: its bytes are read back by an independent reader where there is one (tests/e2e,
 * Python's zipfile); here the layout is walked by the letter of APPNOTE.TXT, and the limits are
 * met. */
#include "tests/check.h"

#include "base/bytes.h"
#include "base/digest.h"
#include "node/edge/zip.h"

static void fill(struct sl_zip *zip)
{
    CHECK_INT(sl_zip_add(zip, "a.txt", "hello", 5), SL_OK);
    CHECK_INT(sl_zip_add(zip, "empty", "", 0), SL_OK);
    CHECK_INT(sl_zip_add(zip, "b.bin", "\0\1\2\3", 4), SL_OK);
    CHECK_INT(sl_zip_end(zip), SL_OK);
}

SL_TEST(the_end_record_leads_to_every_entry_and_its_data)
{
    static const char *const names[] = {"a.txt", "empty", "b.bin"}, *const contents[] = {"hello", "",
                                                                                         "\0\1\2\3"};
    static const size_t sizes[] = {5, 0, 4};
    struct sl_zip zip = {0};
    fill(&zip);
    REQUIRE(zip.bytes > 22);
    const uint8_t *end = zip.data + zip.bytes - 22;
    CHECK_INT(sl_get32(end), 0x06054b50);
    CHECK_INT(sl_get16(end + 10), 3);
    uint32_t directory_bytes = sl_get32(end + 12), at = sl_get32(end + 16);
    CHECK_INT(at + directory_bytes + 22, zip.bytes);
    for (size_t i = 0; i < 3; i++) {
        REQUIRE(at + 46 <= zip.bytes);
        const uint8_t *entry = zip.data + at;
        size_t name_bytes = sl_get16(entry + 28);
        CHECK_INT(sl_get32(entry), 0x02014b50);
        CHECK(name_bytes == strlen(names[i]) && memcmp(entry + 46, names[i], name_bytes) == 0);
        CHECK_INT(sl_get16(entry + 10), 0); /* stored */
        CHECK_INT(sl_get32(entry + 16), sl_crc32_zip(0, contents[i], sizes[i]));
        CHECK_INT(sl_get32(entry + 20), sizes[i]);
        CHECK_INT(sl_get32(entry + 24), sizes[i]);
        const uint8_t *local = zip.data + sl_get32(entry + 42);
        CHECK_INT(sl_get32(local), 0x04034b50);
        CHECK_INT(sl_get32(local + 14), sl_get32(entry + 16));
        CHECK(memcmp(local + 30 + sl_get16(local + 26), contents[i], sizes[i]) == 0);
        at += 46 + (uint32_t)name_bytes;
    }
    sl_zip_fini(&zip);
}

SL_TEST(crc_is_the_one_that_zip_files_use)
{
    CHECK_INT(sl_crc32_zip(0, "123456789", 9), 0xcbf43926);
}

SL_TEST(the_same_contents_give_the_same_bytes)
{
    struct sl_zip one = {0}, two = {0};
    fill(&one);
    fill(&two);
    CHECK(one.bytes == two.bytes && memcmp(one.data, two.data, one.bytes) == 0);
    sl_zip_fini(&one);
    sl_zip_fini(&two);
}

SL_TEST(too_many_entries_and_too_long_names_are_refused)
{
    struct sl_zip zip = {0};
    char name[80];
    memset(name, 'x', sizeof name);
    name[64] = 0;
    CHECK_INT(sl_zip_add(&zip, name, "", 0), SL_E_EXHAUSTED);
    name[63] = 0;
    CHECK_INT(sl_zip_add(&zip, name, "", 0), SL_OK);
    for (int i = 1; i < SL_ZIP_MAX_ENTRIES; i++)
        CHECK_INT(sl_zip_add(&zip, "n", "", 0), SL_OK);
    CHECK_INT(sl_zip_add(&zip, "n", "", 0), SL_E_EXHAUSTED);
    CHECK_INT(sl_zip_end(&zip), SL_OK);
    sl_zip_fini(&zip);
}
