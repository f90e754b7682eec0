/* What a node tells who started it: systemd, or whoever else speaks its protocol (Type=notify). Datagrams to the socket that
 * $NOTIFY_SOCKET names; without that variable nothing is sent. Ready, stopping, a sentence, and, if $WATCHDOG_USEC asks for it, a
 * sign of life, which is only given when the loop of the role has turned since the last: a process whose other threads go on
 * is not alive. */
#ifndef SL_BASE_NOTIFY_H
#define SL_BASE_NOTIFY_H

#include "base/status.h"

/* "READY=1\nSTATUS=...": lines of NAME=VALUE. What can't be sent is lost. Any thread. */
void sl_notify(const char *lines, ...) __attribute__((format(printf, 1, 2)));

/* The loop of this process's role calls it once a turn. */
void sl_notify_turn(void);

/* Starts the sign of life, if one is asked for of this process: twice in $WATCHDOG_USEC a thread looks whether the loop has turned,
 * and wakes it (it may have nothing to do). wake: any thread may call it, until sl_notify_unwatch returns. */
void sl_notify_watch(void (*wake)(void *user), void *user);
void sl_notify_unwatch(void); /* twice, or without a watch, does nothing */

#endif
