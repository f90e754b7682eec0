/* Signals: which are ours, and that the others do what they do by default. A library that is loaded may take signals before main
 * runs (UCX takes SIGHUP for its debugger, and SIGSEGV with its like), and the process no longer ends when its terminal does. */
#ifndef SL_BASE_SIGNALS_H
#define SL_BASE_SIGNALS_H

#include <signal.h>
#include <stdbool.h>

/* First thing in main: what was done to signals since the process began is undone; what its parent had ignored (nohup) stays
 * so. The first process of a container ends by SIGTERM, SIGINT and SIGHUP as any other does. Faults stay UCX's when
 * UCX_HANDLE_ERRORS or UCX_ERROR_SIGNALS is set, and a sanitizer's in its builds. */
void sl_signals_give_back(void);

/* Those that ask a node to end: SIGTERM, SIGINT, and SIGHUP (its terminal is gone) unless the process was started with it
 * ignored. They are waited for, blocked, by one thread. */
void sl_signals_of_end(sigset_t *set);
bool sl_signal_ends(int number);
/* The same again while it drains: at once. A SIGHUP is not: a terminal that closes sends several. */
bool sl_signal_insists(int number);

#endif
