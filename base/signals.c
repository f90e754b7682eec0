/* What signals did when the process began is noted before any library's constructor runs (.preinit_array is the one place
 * before those), because afterwards nobody knows whether SIGHUP was ignored for us. Sanitizers are not ready that early, and
 * own the faults: in their builds only SIGHUP is given back. */
#include "base/signals.h"

#include <stdlib.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

enum { N_SIGNALS = 32 }; /* the named ones; nobody has taken a real-time one */

static struct sigaction at_start[N_SIGNALS]; /* all SIG_DFL where it was not noted */

#if !SANITIZED
static void note(int argc, char **argv, char **environment)
{
    (void)argc, (void)argv, (void)environment;
    for (int i = 1; i < N_SIGNALS; i++)
        sigaction(i, NULL, &at_start[i]);
}
__attribute__((section(".preinit_array"), used)) static void (*const first)(int, char **, char **) = note;
#endif

static bool is_fault(int number)
{
    return number == SIGILL || number == SIGSEGV || number == SIGBUS || number == SIGFPE || number == SIGTRAP;
}

static void end(int number)
{
    _exit(128 + number);
}

/* The first process of a container: what a signal does by default the kernel does not do to it. */
static void be_ended(void)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (at_start[numbers[i]].sa_handler == SIG_DFL)
            sigaction(numbers[i], &(struct sigaction){.sa_handler = end}, NULL);
}

void sl_signals_give_back(void)
{
    bool wanted = SANITIZED || getenv("UCX_HANDLE_ERRORS") || getenv("UCX_ERROR_SIGNALS");
    for (int i = 1; i < N_SIGNALS; i++) {
        struct sigaction now;
        if ((is_fault(i) && wanted) || (SANITIZED && i != SIGHUP) || sigaction(i, NULL, &now) != 0 ||
            now.sa_handler == at_start[i].sa_handler)
            continue;
        sigaction(i, &at_start[i], NULL);
    }
    if (getpid() == 1)
        be_ended();
}

void sl_signals_of_end(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    if (at_start[SIGHUP].sa_handler != SIG_IGN) /* blocked, it would come in spite of being ignored */
        sigaddset(set, SIGHUP);
}

bool sl_signal_ends(int number)
{
    return number == SIGTERM || number == SIGINT || number == SIGHUP;
}

bool sl_signal_insists(int number)
{
    return number == SIGTERM || number == SIGINT;
}
