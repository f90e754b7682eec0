/* The handler of bus_error.h. It reads a list that only grows, whose entries are used again, with atomic loads alone; what it
 * calls is a system call each. */
#include "model/pack/bus_error.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096 };

struct sl_mapping {
    struct sl_mapping *next;
    _Atomic uintptr_t begin, end; /* end 0: free */
    _Atomic bool guarded, faulted;
    char sentence[640];
};

static _Atomic(struct sl_mapping *) mappings;
static _Atomic bool any_faulted;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of those who change the list */
static struct sigaction before;

static void say_and_end(const char *sentence)
{
    ssize_t n = write(STDERR_FILENO, sentence, strlen(sentence));
    (void)n;
    _exit(65); /* as sl_status_exit_code(SL_E_DATA), which is no system call */
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    uintptr_t at = (uintptr_t)info->si_addr;
    (void)number, (void)context;
    for (struct sl_mapping *m = atomic_load(&mappings); m; m = m->next) {
        uintptr_t end = atomic_load(&m->end);
        if (at >= end || at < atomic_load(&m->begin))
            continue;
        uintptr_t page = at & ~(uintptr_t)(PAGE - 1);
        if (!atomic_load(&m->guarded))
            say_and_end(m->sentence);
        atomic_store(&m->faulted, true); /* before there are zeros that another thread could read */
        atomic_store(&any_faulted, true);
        if (mmap((void *)page, end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
            MAP_FAILED)
            say_and_end(m->sentence);
        return;
    }
    sigaction(SIGBUS, &before, NULL); /* not ours: it happens again, to whom it would have happened */
}

static void take_signal(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &before);
}

static struct sl_mapping *free_entry(void)
{
    for (struct sl_mapping *m = atomic_load(&mappings); m; m = m->next)
        if (atomic_load(&m->end) == 0)
            return m;
    struct sl_mapping *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->next = atomic_load(&mappings);
    atomic_store(&mappings, m);
    return m;
}

struct sl_mapping *sl_mapping_declare(const void *begin, uint64_t bytes, const char *path)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, take_signal);
    pthread_mutex_lock(&lock);
    struct sl_mapping *m = free_entry();
    if (m) {
        snprintf(
            m->sentence, sizeof m->sentence,
            "sluice: %.400s became shorter, or could not be read, while it was in use; fetch it again, or pack the "
            "checkpoint again (--weights copy does not depend on the file)\n",
            path);
        atomic_store(&m->guarded, false);
        atomic_store(&m->faulted, false);
        atomic_store(&m->begin, (uintptr_t)begin);
        atomic_store(&m->end, (uintptr_t)begin + (uintptr_t)((bytes + PAGE - 1) / PAGE * PAGE));
    }
    pthread_mutex_unlock(&lock);
    return m;
}

void sl_mapping_forget(struct sl_mapping *mapping)
{
    if (mapping)
        atomic_store(&mapping->end, 0);
}

void sl_mapping_guard(struct sl_mapping *mapping)
{
    atomic_store(&mapping->guarded, true);
}

bool sl_mapping_faulted(const struct sl_mapping *mapping)
{
    return atomic_load(&mapping->faulted);
}

bool sl_weights_faulted(void)
{
    return atomic_load_explicit(&any_faulted, memory_order_relaxed);
}
