/* Tests of node/command/options.c: every source of a value, their order, every type's spellings and
 * refusals, and the sentences. One made-up command carries one option of each type. The environment
 * is changed with setenv: tests run one by one. */
#include "node/command/options.h"
#include "tests/check.h"

#include <stdlib.h>

struct test_values {
    const char *prompt, *kv, *listen, *keep;
    uint32_t threads, seed;
    double temperature;
    bool timeline, colour;
};

static const struct sl_option options[] = {
    {"prompt", SL_OPT_STRING, offsetof(struct test_values, prompt), NULL, NULL, 0, 0, NULL, "The text."},
    {"threads", SL_OPT_UINT, offsetof(struct test_values, threads), "2", NULL, 1, 4096, "threads",
     "How many."},
    {"seed", SL_OPT_UINT, offsetof(struct test_values, seed), NULL, NULL, 0, 0, NULL, "The seed."},
    {"temperature", SL_OPT_FLOAT, offsetof(struct test_values, temperature), "0.5", NULL, 0, 2, NULL,
     "How wild."},
    {"kv", SL_OPT_CHOICE, offsetof(struct test_values, kv), "bf16", "bf16|f32", 0, 0, NULL,
     "Numbers of the cache."},
    {"listen", SL_OPT_ADDRESS, offsetof(struct test_values, listen), "127.0.0.1:50051", NULL, 0, 0, NULL,
     "Where."},
    {"timeline", SL_OPT_BOOL, offsetof(struct test_values, timeline), NULL, NULL, 0, 0, NULL, "Draw it."},
    {"colour", SL_OPT_BOOL, offsetof(struct test_values, colour), "true", NULL, 0, 0, NULL, "In colour."},
    {"keep", SL_OPT_LIST, offsetof(struct test_values, keep), NULL, NULL, 0, 0, "RULE", "What to keep."},
    {0},
};

static int last_run;
static int run(const void *values, const char *const *args, uint32_t n_args)
{
    const struct test_values *v = values;
    last_run = (int)(v->threads + n_args * 100);
    return args && last_run == 102 ? 7 : 3;
}

static const struct sl_command command = {
    "try", "PATH", "Tries.", "Tries everything that options can do.", options, sizeof(struct test_values),
    0,     2,      run};

enum { MAX_WORDS = 12 };

static sl_status parse(struct test_values *v, struct sl_err *err, const char *const *words)
{
    char *argv[MAX_WORDS + 1];
    int argc = 1;
    static char name[] = "try";
    argv[0] = name;
    for (; *words && argc <= MAX_WORDS; words++, argc++)
        argv[argc] = (char *)(uintptr_t)*words;
    const char *args[4];
    uint32_t n_args;
    bool help;
    return sl_options_parse(&command, argc, argv, v, args, &n_args, &help, err);
}
#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void check_refused(const char *const *words, const char *part)
{
    struct test_values v;
    struct sl_err err = {0};
    CHECK_INT(parse(&v, &err, words), SL_E_USAGE);
    CHECK_CONTAINS(err.text, part);
}

static const char *write_file(const char *text)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/sluice.yaml", sl_test_dir());
    FILE *file = fopen(path, "w");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0)
        sl_test_fail(__FILE__, __LINE__, "cannot write %s", path);
    return path;
}

SL_TEST(defaults_fill_what_nobody_said)
{
    struct test_values v;
    struct sl_err err;
    REQUIRE(parse(&v, &err, WORDS("x")) == SL_OK);
    CHECK(v.prompt == NULL);
    CHECK_INT(v.threads, 2);
    CHECK_INT(v.seed, 0);
    CHECK(v.temperature == 0.5);
    CHECK_STR(v.kv, "bf16");
    CHECK_STR(v.listen, "127.0.0.1:50051");
    CHECK(!v.timeline && v.colour);
}

SL_TEST(command_line_spellings)
{
    struct test_values v;
    struct sl_err err;
    REQUIRE(parse(&v, &err,
                  WORDS("--threads=3", "--prompt", "a b", "--timeline", "--no-colour", "--kv", "f32")) ==
            SL_OK);
    CHECK_INT(v.threads, 3);
    CHECK_STR(v.prompt, "a b");
    CHECK(v.timeline && !v.colour);
    CHECK_STR(v.kv, "f32");
    REQUIRE(parse(&v, &err, WORDS("--timeline=false", "--temperature", "1.25", "--prompt=--x")) == SL_OK);
    CHECK(!v.timeline && v.temperature == 1.25);
    CHECK_STR(v.prompt, "--x");
    REQUIRE(parse(&v, &err, WORDS("--threads", "3", "--threads", "4")) == SL_OK);
    CHECK_INT(v.threads, 4);
}

SL_TEST(a_list_given_several_times_is_joined)
{
    struct test_values v;
    struct sl_err err = {0};
    CHECK_INT(parse(&v, &err, (const char *[]){"--keep", "a=1,b=2", "--seed", "1", "--keep=c", NULL}), SL_OK);
    CHECK_STR(v.keep, "a=1,b=2,c");
    setenv("SLUICE_KEEP", "z", 1); /* the command line is not added to, it counts alone */
    CHECK_INT(parse(&v, &err, (const char *[]){"--keep", "a", NULL}), SL_OK);
    CHECK_STR(v.keep, "a");
    CHECK_INT(parse(&v, &err, (const char *[]){NULL}), SL_OK);
    CHECK_STR(v.keep, "z");
    unsetenv("SLUICE_KEEP");
}

SL_TEST(whole_numbers_with_suffixes)
{
    static const struct {
        const char *text;
        uint32_t value;
    } cases[] = {
        {"0", 0},        {"4096", 4096},     {"4k", 4000},     {"4K", 4096},     {"2m", 2000000},
        {"2M", 2097152}, {"1g", 1000000000}, {"25.6k", 25600}, {"1G", 1u << 30}, {"4294967295", UINT32_MAX}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct test_values v;
        struct sl_err err;
        REQUIRE(parse(&v, &err, WORDS("--seed", cases[i].text)) == SL_OK);
        CHECK_INT(v.seed, cases[i].value);
    }
    static const char *const bad[] = {"",           "-1",  "+1",  "1.5", "4kk", "k", "0x10",
                                      "4294967296", "1e3", "nan", " 1",  "1 ",  "9G"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        check_refused(WORDS("--seed", bad[i]), "--seed is");
}

SL_TEST(refusals_name_the_option_and_what_it_takes)
{
    check_refused(WORDS("--threads", "0"), "from 1 to 4096");
    check_refused(WORDS("--threads", "4097"), "from 1 to 4096");
    check_refused(WORDS("--temperature", "nan"), "--temperature is \"nan\"");
    check_refused(WORDS("--temperature", "-0.1"), "a number from 0 to 2");
    check_refused(WORDS("--temperature", "inf"), "a number");
    check_refused(WORDS("--temperature", ""), "a number");
    check_refused(WORDS("--kv", "f16"), "one of bf16|f32");
    check_refused(WORDS("--kv", "bf16|f32"), "one of bf16|f32");
    check_refused(WORDS("--kv", "f3"), "one of");
    check_refused(WORDS("--timeline=maybe"), "true or false");
    check_refused(WORDS("--prompt"), "needs a value");
    check_refused(WORDS("--prompt", "--timeline"), "--prompt=VALUE");
    check_refused(WORDS("--thread", "3"), "did you mean --threads?");
    check_refused(WORDS("--zzzzzzzz"), "`sluice try --help`");
    check_refused(WORDS("--no-prompt"), "--no-prompt");
    check_refused(WORDS("-t"), "two dashes");
    check_refused(WORDS("a", "b", "c"), "\"c\" is one argument too many");
}

SL_TEST(addresses)
{
    static const char *const good[] = {"localhost:1", "0.0.0.0:0", "[::1]:50051", "host-1.example:65535"};
    static const char *const bad[] = {
        "", "localhost", ":80", "localhost:", "localhost:65536", "localhost:http", "::1:80", "a b:1"};
    struct test_values v;
    struct sl_err err;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        CHECK_INT(parse(&v, &err, WORDS("--listen", good[i])), SL_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        check_refused(WORDS("--listen", bad[i]), "HOST:PORT");
}

SL_TEST(a_variable_of_a_kubernetes_service_is_named_as_that)
{
    struct test_values v;
    struct sl_err err;
    setenv("SLUICE_SEED", "tcp://10.96.0.9:50051", 1);
    sl_status status = parse(&v, &err, WORDS("x"));
    setenv("SLUICE_SEED", "10.96.0.9", 1);
    struct sl_err plain;
    sl_status other = parse(&v, &plain, WORDS("x"));
    unsetenv("SLUICE_SEED");
    CHECK_INT(status, SL_E_CONFIG);
    CHECK_CONTAINS(err.text, "SLUICE_SEED is \"tcp://10.96.0.9:50051\"; it takes a whole number");
    CHECK_CONTAINS(err.text,
                   "what Kubernetes sets for a Service of that name: say enableServiceLinks: false");
    CHECK_INT(other, SL_E_CONFIG);
    CHECK(!strstr(plain.text, "Kubernetes"));
}

SL_TEST(command_line_beats_environment_beats_file_beats_default)
{
    struct test_values v;
    struct sl_err err;
    const char *path =
        write_file("# a comment\nthreads: 5\nseed: 5\ntemperature: 1\nkv: \"f32\"\ncolour: no\n");
    setenv("SLUICE_THREADS", "6", 1);
    setenv("SLUICE_SEED", "6", 1);
    setenv("SLUICE_KV", "", 1); /* empty is as good as unset */
    sl_status status = parse(&v, &err, WORDS("--config", path, "--threads", "7"));
    setenv("SLUICE_CONFIG", path, 1);
    struct test_values w;
    sl_status again = parse(&w, &err, WORDS("x"));
    unsetenv("SLUICE_CONFIG");
    unsetenv("SLUICE_THREADS");
    unsetenv("SLUICE_SEED");
    unsetenv("SLUICE_KV");
    REQUIRE(status == SL_OK && again == SL_OK);
    CHECK_INT(v.threads, 7);
    CHECK_INT(v.seed, 6);
    CHECK(v.temperature == 1.0 && !v.colour);
    CHECK_STR(v.kv, "f32");
    CHECK_STR(v.listen, "127.0.0.1:50051");
    CHECK_INT(w.threads, 6);
    CHECK(w.temperature == 1.0);
}

SL_TEST(wrong_values_say_where_they_came_from)
{
    struct test_values v;
    struct sl_err err;
    setenv("SLUICE_THREADS", "many", 1);
    CHECK_INT(parse(&v, &err, WORDS("x")), SL_E_CONFIG);
    unsetenv("SLUICE_THREADS");
    CHECK_CONTAINS(err.text, "SLUICE_THREADS is \"many\"");
    CHECK_INT(parse(&v, &err, WORDS("--config", write_file("threads: many\n"))), SL_E_CONFIG);
    CHECK_CONTAINS(err.text, "threads in /");
    CHECK_CONTAINS(err.text, "sluice.yaml");
}

SL_TEST(files_that_are_refused)
{
    static const struct {
        const char *text, *part;
    } cases[] = {{"thread: 3\n", "did you mean threads?"},
                 {"threads: [1]\n", "one flat list"},
                 {"- threads\n", "one flat list"},
                 {"threads: 1\nthreads: 2\n", "twice"},
                 {"threads: {a: b}\n", "line 1"},
                 {"\tx: [\n", "is not YAML"},
                 {"threads: []\n", "one flat list"},
                 {"threads: {}\n", "one flat list"},
                 {"threads: 1\n---\nthreads: 2\n", "second document"},
                 {"a: *b\n", "anchors"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct test_values v;
        struct sl_err err = {0};
        CHECK_INT(parse(&v, &err, WORDS("--config", write_file(cases[i].text))), SL_E_CONFIG);
        CHECK_CONTAINS(err.text, cases[i].part);
    }
    struct test_values v;
    struct sl_err err = {0};
    CHECK_INT(parse(&v, &err, WORDS("--config", "/nonexistent.yaml")), SL_E_CONFIG);
    CHECK_CONTAINS(err.text, "/nonexistent.yaml cannot be opened");
    CHECK_INT(parse(&v, &err, WORDS("--config", write_file(""))), SL_OK);
    CHECK_INT(parse(&v, &err, WORDS("--config", write_file("# nothing\n"))), SL_OK);
}

SL_TEST(arguments_and_the_double_dash)
{
    char *argv[] = {(char[]){"try"}, (char[]){"a"}, (char[]){"--timeline"}, (char[]){"--"}, (char[]){"--b"}};
    struct test_values v;
    struct sl_err err;
    const char *args[4];
    uint32_t n_args;
    bool help;
    REQUIRE(sl_options_parse(&command, 5, argv, &v, args, &n_args, &help, &err) == SL_OK);
    CHECK_INT(n_args, 2);
    CHECK_STR(args[0], "a");
    CHECK_STR(args[1], "--b");
    CHECK(v.timeline && !help);
    struct sl_command needs_two = command;
    needs_two.min_args = 2;
    CHECK_INT(sl_options_parse(&needs_two, 2, argv, &v, args, &n_args, &help, &err), SL_E_USAGE);
    CHECK_CONTAINS(err.text, "is missing");
}

SL_TEST(help_names_every_option_with_default_and_range)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *to = open_memstream(&text, &bytes);
    REQUIRE(to != NULL);
    sl_options_help(&command, to);
    fclose(to);
    for (const struct sl_option *option = options; option->name; option++)
        CHECK_CONTAINS(text, option->name);
    CHECK_CONTAINS(text, "Usage: sluice try PATH [options]");
    CHECK_CONTAINS(text, "Default: 2 threads. From 1 to 4096.");
    CHECK_CONTAINS(text, "bf16|f32");
    CHECK_CONTAINS(text, "SLUICE_MAX_TOKENS");
    free(text);
}

SL_TEST(the_lines_of_a_description_stay_lines)
{
    struct sl_command told = command;
    char *text = NULL;
    size_t bytes = 0;
    FILE *to = open_memstream(&text, &bytes);
    REQUIRE(to != NULL);
    told.description =
        "It prints the coefficients of the time that a chunk takes,\n\n  t = c + b*n,\n\nand how far "
        "it is from what was measured.";
    sl_options_help(&told, to);
    fclose(to);
    CHECK_CONTAINS(text, "takes,\n\n  t = c + b*n,\n\nand how far it is from what was measured.\n");
    CHECK(strstr(text, " \n") == NULL);
    free(text);
}

SL_TEST(dispatch_by_one_or_two_words)
{
    struct sl_command two = command;
    two.name = "try harder";
    const struct sl_command *const commands[] = {&command, &two, NULL};
    char *one[] = {(char[]){"sluice"}, (char[]){"try"}, (char[]){"x"}};
    CHECK_INT(sl_commands_main(commands, 3, one), 7);
    CHECK_INT(last_run, 102);
    char *both[] = {(char[]){"sluice"}, (char[]){"try"}, (char[]){"harder"}, (char[]){"--threads=9"}};
    struct sl_command plain = command;
    plain.name = "other";
    const struct sl_command *const others[] = {&plain, &two, NULL};
    CHECK_INT(sl_commands_main(others, 4, both), 3);
    CHECK_INT(last_run, 9);
    CHECK_INT(sl_commands_main(others, 2, one), 64); /* "try" alone: say which */
    char *help[] = {(char[]){"sluice"}, (char[]){"try"}, (char[]){"--help"}};
    CHECK_INT(sl_commands_main(others, 3, help), 0);
    char *no_such_help[] = {(char[]){"sluice"}, (char[]){"tries"}, (char[]){"--help"}};
    CHECK_INT(sl_commands_main(others, 3, no_such_help), 64);
    char *wrong[] = {(char[]){"sluice"}, (char[]){"other"}, (char[]){"--threads=0"}};
    CHECK_INT(sl_commands_main(others, 3, wrong), 64);
    CHECK_INT(sl_commands_main(others, 1, wrong), 64);
}
