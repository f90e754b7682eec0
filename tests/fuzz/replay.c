/* A driver for fuzz targets without libFuzzer: `fuzz_X DIR` feeds every file of a corpus directory
 * to LLVMFuzzerTestOneInput, and of each file also 16 truncations and 64 seeded bit flips.
 *
 * So the fast test tier, built with gcc, exercises the same code as a fuzzing run, and always with
 * the same inputs. The target says that it is unhappy by crashing or aborting; then the input at
 * hand is named on the way out. A corpus that is absent or empty is a failure: it would pass
 * without having tested anything. Inputs are handed over in allocations of their exact size, so
 * that a sanitizer sees a read past the end. */
#include "base/rng.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { N_CUTS = 16, N_FLIPS = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static char at_hand[512];
static int n_passed;

static void name_input(int number)
{
    char line[sizeof at_hand + 128];
    int n = snprintf(line, sizeof line, "died of signal %d on %s\n%d passed, 1 failed, 0 skipped\n", number,
                     at_hand, n_passed);
    if (write(STDOUT_FILENO, line, (size_t)n) != n)
        _exit(2);
    signal(number, SIG_DFL);
    raise(number);
}

static void feed(const uint8_t *data, size_t bytes, const char *file, const char *what, size_t number)
{
    snprintf(at_hand, sizeof at_hand, "%s (%s %zu)", file, what, number);
    uint8_t *copy = malloc(bytes ? bytes : 1);
    if (!copy)
        abort();
    memcpy(copy, data, bytes);
    LLVMFuzzerTestOneInput(copy, bytes);
    free(copy);
}

static void feed_all(uint8_t *data, size_t bytes, const char *file)
{
    feed(data, bytes, file, "whole", 0);
    for (size_t i = 0; i < N_CUTS; i++)
        feed(data, bytes * i / N_CUTS, file, "cut to sixteenths", i);
    uint64_t seed = 0; /* of the name, not of the directory's order: the same inputs on every machine */
    for (const char *p = file; *p; p++)
        seed = seed * 31 + (uint8_t)*p;
    for (size_t i = 0; bytes > 0 && i < N_FLIPS; i++) {
        size_t bit = sl_rng_at(seed, i) % (8 * bytes);
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        feed(data, bytes, file, "with flipped bit", bit);
        data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static bool read_whole(const char *path, uint8_t **data, size_t *bytes)
{
    struct stat info;
    FILE *file = fopen(path, "rb");
    bool whole = file && fstat(fileno(file), &info) == 0 && S_ISREG(info.st_mode);
    *data = NULL;
    *bytes = whole ? (size_t)info.st_size : 0;
    if (whole) {
        *data = malloc(*bytes + 1);
        whole = *data && fread(*data, 1, *bytes, file) == *bytes;
    }
    if (file)
        fclose(file);
    return whole;
}

static int replay(const char *dir)
{
    int failed = 0;
    DIR *entries = opendir(dir);
    if (!entries) {
        printf("cannot open the corpus %s: %s\n", dir, strerror(errno));
        return 1;
    }
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        char path[4096];
        uint8_t *data;
        size_t bytes;
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        if (read_whole(path, &data, &bytes)) {
            feed_all(data, bytes, entry->d_name);
            n_passed++;
        } else {
            printf("cannot read %s\n", path);
            failed++;
        }
        free(data);
    }
    closedir(entries);
    if (n_passed + failed == 0) {
        printf("the corpus %s is empty\n", dir);
        failed = 1;
    }
    return failed;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s CORPUS_DIRECTORY\n", argv[0]);
        return 64;
    }
    static const int numbers[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct sigaction old; /* a sanitizer's own handler tells more than ours */
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
            signal(numbers[i], name_input);
    }
    int failed = replay(argv[1]);
    printf("%d passed, %d failed, 0 skipped\n", n_passed, failed);
    return failed ? 1 : 0;
}
