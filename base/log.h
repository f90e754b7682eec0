/* One line an event, on stderr: JSON when it is not a terminal, readable when it is.
 * Fields: time (UTC), level, role, message, then the caller's own pairs. Thread-safe: one write(2) a line.
 * Not for the chunk path. Level from SLUICE_LOG=error|warn|info|debug (default info). */
#ifndef SL_BASE_LOG_H
#define SL_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum sl_log_level { SL_LOG_ERROR, SL_LOG_WARN, SL_LOG_INFO, SL_LOG_DEBUG };

void sl_log_init(const char *role, enum sl_log_level level); /* role: static string, "stage 1" */
void sl_log_set_role(const char *role);                      /* copied */
enum sl_log_level sl_log_level_from_name(const char *name, enum sl_log_level otherwise);

/* The message is a printf sentence; it is escaped as needed. */
void sl_log(enum sl_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* For what strangers can make happen as often as they like: true at most once in SL_LOG_SELDOM_MS, and then *left_out says how
 * many times it was not since the last line. Zeroed before its first use. Any thread. */
enum { SL_LOG_SELDOM_MS = 1000 };
struct sl_log_seldom {
    _Atomic uint64_t next_ns;
    _Atomic uint32_t left_out;
};
bool sl_log_may(struct sl_log_seldom *seldom, uint64_t now_ns, uint32_t *left_out);
/* Whether a line would be taken now. For what comes with every request: who reads the log may have stopped reading, and such a
 * line is better lost than waited for. */
bool sl_log_is_taken(void);
#define sl_log_error(...) sl_log(SL_LOG_ERROR, __VA_ARGS__)
#define sl_log_warn(...) sl_log(SL_LOG_WARN, __VA_ARGS__)
#define sl_log_info(...) sl_log(SL_LOG_INFO, __VA_ARGS__)
#define sl_log_debug(...) sl_log(SL_LOG_DEBUG, __VA_ARGS__)

#endif
