/* Log lines: `key=value` pairs on standard error, one line an event. An error names rank and host.
 *
 * A value that came from outside (a path, a message, a name) goes through log_value, so that a line
 * is always one line and splits into its pairs without knowing who wrote it.
 *
 * Rank and level are the one mutable state here that is not passed: they say how this process
 * writes on standard error, of which it has one too, and every folder, thread and early failure
 * logs, before there is anything to pass them in. They are set before threads start and only read
 * afterwards. */
#ifndef STRATA_CORE_LOG_H
#define STRATA_CORE_LOG_H

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* Who this process is; said at start, before there are threads. Only rank 0 prints LOG_INFO and
 * below. */
void log_identify(int rank, int ranks);

/* Lines below `level` are dropped; LOG_INFO at start. */
void log_set_level(enum log_level level);

/* One line: level, then the printf-formatted text, then a newline. Thread-safe. */
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

enum { LOG_VALUE_BYTES = 2048 };
struct log_text {
    char text[LOG_VALUE_BYTES];
};

/* `value` as a log line holds it: bare where it is plain; "quoted" where it is empty or has spaces,
 * quotes, backslashes, '=', control characters or bytes that are not UTF-8. In quotes \", \\, \n,
 * \r, \t and \xNN stand for what would end or break the value. What doesn't fit is cut, then "...".
 * Returns room->text:
 *     log_line(LOG_WARN, "event=x path=%s", log_value(&(struct log_text){0}, path)); */
const char *log_value(struct log_text *room, const char *value);

#endif
