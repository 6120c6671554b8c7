/* Log lines: `key=value` pairs on standard error, one line an event. An error names rank and host.
 * Values with spaces are quoted by the caller's format. */
#ifndef STRATA_CORE_LOG_H
#define STRATA_CORE_LOG_H

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* Who this process is; said once at start. Only rank 0 prints LOG_INFO and below. */
void log_identify(int rank, int ranks);

/* Lines below `level` are dropped; LOG_INFO at start. */
void log_set_level(enum log_level level);

/* One line: level, then the printf-formatted text, then a newline. Thread-safe. */
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
