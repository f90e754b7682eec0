/* The test runner: a test is SL_TEST(name) { ... }, a program is one test_X.c plus check.c.
 * `./build/tests/base_test_ring [--list] [SUBSTRING]` runs what matches and ends with
 * "N passed, N failed, N skipped". CHECK goes on after a failure and marks the test; REQUIRE leaves it. */
#ifndef SL_TESTS_CHECK_H
#define SL_TESTS_CHECK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sl_test {
    const char *name;
    void (*run)(void);
    struct sl_test *next;
};
void sl_test_register(struct sl_test *test);
void sl_test_fail(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));
void sl_test_skip(const char *why); /* prints the reason; return from the test after it */
const char *sl_test_dir(void);      /* a fresh empty directory for this test, removed after it */
/* For a wait that only ends by it when something hangs: as many times as long as SLUICE_SLOW_FACTOR says. */
uint32_t sl_test_patience_ms(uint32_t ms);

#define SL_TEST(id)                                                                                          \
    static void test_##id(void);                                                                             \
    __attribute__((constructor)) static void register_##id(void)                                             \
    {                                                                                                        \
        static struct sl_test test = {#id, test_##id, NULL};                                                 \
        sl_test_register(&test);                                                                             \
    }                                                                                                        \
    static void test_##id(void)

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            sl_test_fail(__FILE__, __LINE__, "%s", #condition);                                              \
    } while (0)
#define REQUIRE(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            sl_test_fail(__FILE__, __LINE__, "%s", #condition);                                              \
            return;                                                                                          \
        }                                                                                                    \
    } while (0)
/* What must be there before anything is tried: else it says why not, and the program ends. */
#define SET_UP(condition, why)                                                                               \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            sl_test_fail(__FILE__, __LINE__, "%s", why);                                                     \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)
#define CHECK_INT(a, b)                                                                                      \
    do {                                                                                                     \
        long long a_ = (long long)(a), b_ = (long long)(b);                                                  \
        if (a_ != b_)                                                                                        \
            sl_test_fail(__FILE__, __LINE__, "%s is %lld, expected %lld (%s)", #a, a_, b_, #b);              \
    } while (0)
#define CHECK_STR(a, b)                                                                                      \
    do {                                                                                                     \
        const char *a_ = (a), *b_ = (b);                                                                     \
        if (strcmp(a_, b_) != 0)                                                                             \
            sl_test_fail(__FILE__, __LINE__, "%s is \"%s\", expected \"%s\"", #a, a_, b_);                   \
    } while (0)
#define CHECK_CONTAINS(text, part)                                                                           \
    do {                                                                                                     \
        const char *t_ = (text), *p_ = (part);                                                               \
        if (!strstr(t_, p_))                                                                                 \
            sl_test_fail(__FILE__, __LINE__, "\"%s\" does not contain \"%s\"", t_, p_);                      \
    } while (0)

#endif
