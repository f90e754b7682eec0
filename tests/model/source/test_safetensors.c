/* The safetensors reader: what it accepts, and every rule of the format broken once. Each bad
 * header is a table row: the JSON, the bytes of data behind it, and what the sentence must name. */
#include "model/source/safetensors.h"
#include "tests/model/files.h"

static sl_status parse(struct sl_index *index, const char *header, size_t data_bytes, struct sl_err *err)
{
    uint64_t n = strlen(header);
    uint8_t *head = malloc(8 + n);
    memcpy(head, &n, 8);
    memcpy(head + 8, header, n);
    *index = (struct sl_index){0};
    sl_status status = sl_safetensors_parse(index, head, 8 + n, 8 + n + data_bytes, "f", err);
    free(head);
    return status;
}

SL_TEST(accepts_what_the_format_allows)
{
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                 "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[4,28]},"
                                 "\"a\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]},"
                                 "\"scalar\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[28,30]},"
                                 "\"empty\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[30,30]},"
                                 "\"fp4\":{\"dtype\":\"F4\",\"shape\":[2,3],\"data_offsets\":[30,33]}}   ";
    struct sl_index index;
    struct sl_err err;
    REQUIRE(parse(&index, header, 33, &err) == SL_OK);
    CHECK_INT(index.n_tensors, 5);
    const struct sl_tensor *b = sl_index_find(&index, "b");
    REQUIRE(b);
    CHECK_INT(b->type, SL_T_F32);
    CHECK_INT(b->rank, 2);
    CHECK_INT(b->shape[1], 3);
    CHECK_INT(b->begin, 8 + strlen(header) + 4);
    CHECK_INT(b->end - b->begin, 24);
    CHECK(!sl_index_data(&index, b));
    CHECK_INT(sl_index_find(&index, "fp4")->type, SL_T_OTHER);
    CHECK_INT(sl_index_find(&index, "scalar")->rank, 0);
    CHECK(!sl_index_find(&index, "c"));
    for (uint32_t i = 1; i < index.n_tensors; i++)
        CHECK(strcmp(index.tensors[i - 1].name, index.tensors[i].name) < 0);
    sl_index_close(&index);
    CHECK(!index.tensors);
}

#define T(name, dtype, shape, range)                                                                         \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" range "}"

static const struct bad {
    const char *header;
    size_t data_bytes;
    const char *says;
} bad[] = {
    {"[]", 0, "'{'"},
    {" {}", 0, "'{'"},
    {"{", 0, "'{'"},
    {"{} x", 0, "not valid JSON"},
    {"{" T("w", "F32", "[NaN]", "[0,4]") "}", 4, "NaN"},
    {"{" T("w", "F32", "[Infinity]", "[0,4]") "}", 4, "Infinity"},
    {"{" T("w", "F32", "[-1]", "[0,4]") "}", 4, "'w'"},
    {"{" T("w", "F32", "[1.0]", "[0,4]") "}", 4, "'w'"},
    {"{" T("w", "F32", "[1e0]", "[0,4]") "}", 4, "'w'"},
    {"{" T("w", "F32", "[\"1\"]", "[0,4]") "}", 4, "'w'"},
    {"{" T("w", "F32", "[true]", "[0,4]") "}", 4, "'w'"},
    {"{" T("w", "F32", "[null]", "[0,4]") "}", 4, "'w'"},
    {"{" T("w", "F32", "1", "[0,4]") "}", 4, "shape"},
    {"{" T("w", "F32", "[99999999999999999999]", "[0,4]") "}", 4, "not valid JSON"},
    {"{" T("w", "F32", "[9223372036854775807]", "[0,4]") "}", 4, "overflows"},
    {"{" T("w", "F32", "[4294967296,4294967296]", "[0,4]") "}", 4, "overflows"},
    {"{" T("w", "F32", "[0,9223372036854775807,8]", "[0,0]") "}", 0, "overflows"},
    {"{" T("w", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, "9 dimensions"},
    {"{" T("w", "F4", "[3]", "[0,1]") "}", 1, "whole number"},
    {"{" T("w", "F33", "[1]", "[0,4]") "}", 4, "unknown dtype 'F33'"},
    {"{" T("w", "f32", "[1]", "[0,4]") "}", 4, "unknown dtype"},
    {"{\"w\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'w'"},
    {"{\"w\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'w'"},
    {"{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "shape"},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets"},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "unknown key 'x'"},
    {"{\"w\":7}", 0, "'w'"},
    {"{\"w\":[]}", 0, "'w'"},
    {"{" T("w", "F32", "[1]", "[0]") "}", 4, "data_offsets"},
    {"{" T("w", "F32", "[1]", "[4,0]") "}", 4, "begin <= end"},
    {"{" T("w", "F32", "[1]", "[0,-4]") "}", 4, "data_offsets"},
    {"{" T("w", "F32", "[1]", "[0,4.0]") "}", 4, "data_offsets"},
    {"{" T("w", "F32", "[2]", "[0,8]") "}", 4, "truncated"},
    {"{" T("w", "F32", "[1]", "[0,9223372036854775807]") "}", 4, "truncated"},
    {"{" T("w", "F32", "[1]", "[0,8]") "}", 8, "'w'"},
    {"{" T("w", "F32", "[2]", "[0,4]") "}", 4, "'w'"},
    {"{" T("w", "F32", "[1]", "[0,4]") "}", 5, "at its end"},
    {"{" T("w", "F32", "[1]", "[1,5]") "}", 5, "hole"},
    {"{" T("w", "F32", "[1]", "[0,4]") "," T("v", "F32", "[1]", "[0,4]") "}", 4, "overlaps"},
    {"{" T("w", "F32", "[2]", "[0,8]") "," T("v", "F32", "[1]", "[4,8]") "}", 8, "'v'"},
    {"{" T("w", "F32", "[2]", "[0,8]") "," T("v", "F32", "[0]", "[4,4]") "}", 8, "overlaps"},
    {"{" T("w", "F32", "[1]", "[0,4]") "," T("v", "F32", "[1]", "[8,12]") "}", 12, "'v'"},
    {"{" T("w", "F32", "[1]", "[0,4]") "," T("w", "F32", "[1]", "[0,4]") "}", 4, "duplicate"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__"},
    {"{\"__metadata__\":\"a\"}", 0, "__metadata__"},
    {"{\"w\":{\"dtype\":\"F32\",\"shape\":[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]],\"data_offsets\":["
     "0,4]}}",
     4, "deeper"},
    {"{\"\xff\":1}", 0, "not valid JSON"},
    {"{\"a\\u0000b\":1}", 0, "not valid JSON"},
};

SL_TEST(refuses_each_broken_rule_by_name)
{
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sl_index index;
        struct sl_err err = {0};
        CHECK_INT(parse(&index, bad[i].header, bad[i].data_bytes, &err), SL_E_DATA);
        CHECK_CONTAINS(err.text, bad[i].says);
        CHECK(!index.tensors && !index.files);
    }
}

SL_TEST(refuses_lengths_that_lie)
{
    static const uint64_t lengths[] = {0, 1, 100, 100000001, UINT64_MAX, UINT64_MAX - 7, 1ull << 63};
    struct sl_err err;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint8_t head[16] = "........{}      ";
        memcpy(head, &lengths[i], 8);
        struct sl_index index = {0};
        CHECK_INT(sl_safetensors_parse(&index, head, sizeof head, sizeof head, "f", &err), SL_E_DATA);
    }
    struct sl_index index = {0};
    uint8_t few[7] = {0};
    CHECK_INT(sl_safetensors_parse(&index, few, 7, 7, "f", &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "truncated");
}

SL_TEST(every_truncation_of_a_file_is_refused)
{
    static const char header[] = "{" T("w", "F32", "[3]", "[0,12]") "}";
    char text[256];
    const char *path = path_in(sl_test_dir(), "t.safetensors");
    write_safetensors(path, header, "abcdefghijkl", 12);
    size_t bytes;
    char *all = read_text(path, &bytes);
    struct sl_index index;
    struct sl_err err;
    REQUIRE(sl_index_open_file(&index, path, &err) == SL_OK);
    const struct sl_tensor *w = sl_index_find(&index, "w");
    CHECK(memcmp(sl_index_data(&index, w), "abcdefghijkl", 12) == 0);
    sl_index_close(&index);
    REQUIRE(bytes < sizeof text);
    for (size_t n = 0; n < bytes; n++) {
        write_bytes(path, all, n);
        CHECK_INT(sl_index_open_file(&index, path, &err), SL_E_DATA);
        CHECK_CONTAINS(err.text, "t.safetensors");
    }
    free(all);
}

/* ---- sharded directories ---- */

#define ONE(name) "{" T(name, "F32", "[1]", "[0,4]") "}"

static void make_shards(const char *dir, const char *index)
{
    write_safetensors(path_in(dir, "s1.safetensors"), ONE("a"), "aaaa", 4);
    write_safetensors(path_in(dir, "s2.safetensors"), ONE("b"), "bbbb", 4);
    write_text(path_in(dir, "model.safetensors.index.json"), index);
}

SL_TEST(opens_a_sharded_directory)
{
    const char *dir = sl_test_dir();
    make_shards(dir, "{\"metadata\":{\"total_size\":8},\"weight_map\":{\"b\":\"s2.safetensors\","
                     "\"a\":\"s1.safetensors\"}}");
    struct sl_index index;
    struct sl_err err;
    REQUIRE(sl_index_open_dir(&index, dir, &err) == SL_OK);
    CHECK_INT(index.n_files, 2);
    CHECK(memcmp(sl_index_data(&index, sl_index_find(&index, "a")), "aaaa", 4) == 0);
    CHECK(memcmp(sl_index_data(&index, sl_index_find(&index, "b")), "bbbb", 4) == 0);
    sl_index_close(&index);
}

static const struct {
    const char *index, *says;
} bad_index[] = {
    {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"../s2.safetensors\"}}", "inside"},
    {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"/etc/passwd\"}}", "inside"},
    {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"x/s2.safetensors\"}}", "inside"},
    {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"..\"}}", "inside"},
    {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"\"}}", "inside"},
    {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":2}}", "inside"},
    {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s3.safetensors\"}}", "s3.safetensors"},
    {"{\"weight_map\":{\"a\":\"s2.safetensors\",\"b\":\"s1.safetensors\"}}", "'a'"},
    {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"c\":\"s2.safetensors\"}}", "'c'"},
    {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"c\":\"s1.safetensors\"}}", "'c'"},
    {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"a\":\"s2.safetensors\"}}", "duplicate"},
    {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"model.safetensors.index.json\"}}", "safetensors"},
    {"{\"weight_map\":{}}", "weight_map"},
    {"{\"weight_map\":[]}", "weight_map"},
    {"{}", "weight_map"},
    {"[]", "object"},
    {"", "JSON"},
};

SL_TEST(refuses_an_index_that_lies)
{
    for (size_t i = 0; i < sizeof bad_index / sizeof *bad_index; i++) {
        const char *dir = sl_test_dir();
        make_shards(dir, bad_index[i].index);
        struct sl_index index;
        struct sl_err err = {0};
        CHECK_INT(sl_index_open_dir(&index, dir, &err), SL_E_DATA);
        CHECK_CONTAINS(err.text, bad_index[i].says);
    }
}

SL_TEST(a_tensor_that_the_index_does_not_name_is_refused)
{
    const char *dir = sl_test_dir();
    make_shards(dir, "{\"weight_map\":{\"a\":\"s1.safetensors\"}}");
    write_safetensors(path_in(dir, "s1.safetensors"),
                      "{" T("a", "F32", "[1]", "[0,4]") "," T("z", "F32", "[1]", "[4,8]") "}", "aaaazzzz", 8);
    struct sl_index index;
    struct sl_err err;
    CHECK_INT(sl_index_open_dir(&index, dir, &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "'z'");
}

SL_TEST(a_tensor_in_two_shards_is_refused)
{
    const char *dir = sl_test_dir();
    make_shards(dir, "{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}}");
    write_safetensors(path_in(dir, "s2.safetensors"),
                      "{" T("a", "F32", "[1]", "[0,4]") "," T("b", "F32", "[1]", "[4,8]") "}", "aaaabbbb", 8);
    struct sl_index index;
    struct sl_err err;
    CHECK_INT(sl_index_open_dir(&index, dir, &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "both");
}

SL_TEST(says_what_is_missing)
{
    struct sl_index index;
    struct sl_err err;
    CHECK_INT(sl_index_open_dir(&index, sl_test_dir(), &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "model.safetensors.index.json");
    CHECK_INT(sl_index_open_file(&index, "/nowhere/x.safetensors", &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "/nowhere/x.safetensors");
    CHECK_INT(sl_index_open_file(&index, "/tmp", &err), SL_E_DATA);
}
