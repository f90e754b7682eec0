/* The runner behind tests/check.h: one linked list of tests, run in the order in which they were
 * written, in this process.
 *
 * A test that crashes takes the program with it, so the signal handler names the test and still
 * prints the last line
 * ("N passed, N failed, N skipped") that `./dev test` adds up: a crash is counted, never lost.
 * Sanitizers install handlers of their own before main; those are left alone. Failures may be
 * reported from any thread of a test. */
#include "tests/check.h"

#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

static struct sl_test *first;
static struct sl_test **last = &first;
static const struct sl_test *current;
static atomic_int current_failures;
static atomic_bool current_skipped;
static char current_dir[256];
static int passed, failed, skipped;

void sl_test_register(struct sl_test *test)
{
    *last = test;
    last = &test->next;
}

void sl_test_fail(const char *file, int line, const char *format, ...)
{
    char text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    atomic_fetch_add(&current_failures, 1);
    printf("%s:%d: %s: %s\n", file, line, current ? current->name : "?", text);
    fflush(stdout);
}

void sl_test_skip(const char *why)
{
    atomic_store(&current_skipped, true);
    printf("skip %s: %s\n", current ? current->name : "?", why);
}

const char *sl_test_dir(void)
{
    if (current_dir[0] != '\0')
        return current_dir;
    const char *base = getenv("TMPDIR");
    snprintf(current_dir, sizeof current_dir, "%.200s/sluice-test-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(current_dir)) {
        fprintf(stderr, "cannot make %s: %s\n", current_dir, strerror(errno));
        exit(1);
    }
    return current_dir;
}

uint32_t sl_test_patience_ms(uint32_t ms)
{
    const char *factor = getenv("SLUICE_SLOW_FACTOR");
    double times = factor ? strtod(factor, NULL) : 1;
    return times > 1 ? (uint32_t)(ms * times) : ms;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    (void)where;
    return remove(path);
}

static void remove_dir(void)
{
    if (current_dir[0] != '\0')
        nftw(current_dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    current_dir[0] = '\0';
}

/* Only write(2) from here: the heap may be what is broken. snprintf of integers and strings does
 * not allocate in glibc. */
static void crashed(int number)
{
    char line[256];
    int n = snprintf(line, sizeof line, "%.120s: died of signal %d\n%d passed, %d failed, %d skipped\n",
                     current ? current->name : "?", number, passed, failed + 1, skipped);
    if (write(STDOUT_FILENO, line, (size_t)n) != n)
        _exit(2);
    signal(number, SIG_DFL);
    raise(number);
}

static void catch_crashes(void)
{
    static const int numbers[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct sigaction old;
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
            signal(numbers[i], crashed);
    }
}

static void run(const struct sl_test *test)
{
    current = test;
    atomic_store(&current_failures, 0);
    atomic_store(&current_skipped, false);
    test->run();
    remove_dir();
    if (atomic_load(&current_failures) > 0)
        failed++;
    else if (atomic_load(&current_skipped))
        skipped++;
    else
        passed++;
    current = NULL;
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const char *part = "";
    bool list = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--list") == 0)
            list = true;
        else
            part = argv[i];
    }
    catch_crashes();
    bool any = false;
    for (const struct sl_test *test = first; test; test = test->next) {
        if (!strstr(test->name, part))
            continue;
        any = true;
        if (list)
            puts(test->name);
        else
            run(test);
    }
    if (!any)
        printf("no test has \"%s\" in its name; --list names them\n", part);
    if (!list)
        printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed > 0 || !any ? 1 : 0;
}
