/* Every fault of base/mutate.h is found by the worlds of 200 seeds or the property tests, and nothing is found without one; nothing of
 * them is in the product. Each is tried in a process of its own, mutants-find, which is stopped at the first that it says is wrong. */
#include "tests/check.h"
#include "tests/mutants/mutate.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CPU_S = 60 }; /* one that hangs is found */

/* A file of the build, whose folder tests/ this program lies in. */
static void path_of(char path[4096], const char *name)
{
    ssize_t n = readlink("/proc/self/exe", path, 3000);
    path[n > 0 ? n : 0] = '\0';
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(path, '/');
        if (slash)
            *slash = '\0';
    }
    snprintf(path + strlen(path), 256, "/%s", name);
}

static pid_t begin(const char *part, const char *word, FILE **said)
{
    int ends[2];
    char path[4096];
    path_of(path, "mutants-find");
    if (pipe(ends) != 0)
        return -1;
    pid_t child = fork();
    if (child == 0) {
        rlim_t limit = sl_test_patience_ms(1000 * CPU_S) / 1000;
        setrlimit(RLIMIT_CPU, &(struct rlimit){limit, limit});
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        unsetenv("SLUICE_SEEDS"); /* 200 */
        if (word)
            setenv("SLUICE_MUTATE", word, 1);
        execl(path, path, part, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    *said = fdopen(ends[0], "r");
    return child;
}

/* Whether a line of a test program says that something is wrong. */
static bool is_finding(const char *line)
{
    return strstr(line, ".c:") || strstr(line, ".h:") || strstr(line, "died of signal");
}

/* Whether tests with that in their name find it; the first line that says so is in `line`. */
static bool finds(const char *part, const char *word, char *line, size_t room)
{
    FILE *said = NULL;
    pid_t child = begin(part, word, &said);
    bool found = false;
    int status = 0;
    if (child < 0 || !said)
        return false;
    while (!found && fgets(line, (int)room, said))
        found = is_finding(line);
    kill(child, SIGKILL);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    fclose(said);
    int deadly = WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL ? WTERMSIG(status) : 0;
    if (deadly && !found)
        snprintf(line, room, deadly == SIGXCPU ? "it hangs\n" : "it dies of signal %d\n", deadly);
    if (WIFEXITED(status) && WEXITSTATUS(status) > 1)
        sl_test_fail(__FILE__, __LINE__, "mutants-find ended with code %d", WEXITSTATUS(status));
    return found || deadly;
}

/* Parts of the names of tests in the order in which they are run, the likely finders first: worlds, which go through seeds; at last all
 * that there are. */
enum { MOST_PARTS = 4 };
static const char *const of_decide[MOST_PARTS] = {"late", "run_in_time", "tokens_that_they_get_alone", ""};
static const char *const of_pages[MOST_PARTS] = {"prompts_behind", "tokens_that_they_get_alone", ""};
static const char *const of_link[MOST_PARTS] = {"whatever_happens", ""};
static const char *const of_nccl[MOST_PARTS] = {"are_written", "in_the_order_in_which", "end_the_process",
                                                "rows_local"};

static const char *const of_ucx[MOST_PARTS] = {"nobody_waits_for", "fall_back"};

static void find_all(const char *room, const char *const parts[MOST_PARTS])
{
    int n = 0;
    for (int i = SL_MUTATION_NONE + 1; i < SL_N_MUTATIONS; i++) {
        const struct sl_mutation_named *named = sl_mutation_named((enum sl_mutation)i);
        bool found = false;
        char line[1024] = "";
        if (strcmp(named->room, room) != 0)
            continue;
        for (int p = 0; p < MOST_PARTS && parts[p] && !found; p++)
            found = finds(parts[p], named->word, line, sizeof line);
        if (!found)
            sl_test_fail(__FILE__, __LINE__, "%s (%s) is not found", named->word, named->what);
        printf("  %s: %s", named->word, found ? line : "not found\n");
        fflush(stdout);
        n++;
    }
    CHECK(n >= 4);
}

SL_TEST(nothing_is_found_where_there_is_no_fault)
{
    char line[1024];
    for (int p = 0; p < 2; p++)
        if (finds(p ? of_link[0] : of_decide[0], NULL, line, sizeof line))
            sl_test_fail(__FILE__, __LINE__, "without a mutation: %s", line);
}

SL_TEST(faults_of_the_decider_are_found)
{
    find_all("decide", of_decide);
}

SL_TEST(faults_with_pages_are_found)
{
    find_all("pages", of_pages);
}

SL_TEST(faults_of_links_and_credits_are_found)
{
    find_all("link", of_link);
}

SL_TEST(faults_of_rows_by_nccl_are_found)
{
    find_all("nccl", of_nccl);
}

SL_TEST(faults_of_rows_by_ucx_are_found)
{
    find_all("ucx", of_ucx);
}
