#include "kernels/base/status.h"

#include "kernels/base/printable.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_BYTES = 1024 };

/* Per thread like errno: a failure deep in a loader must reach the caller's caller, and threads
 * must not mix their words. */
static _Thread_local char message[MESSAGE_BYTES];

/* A message may quote a hostile file: here, once for all of them, it becomes one line that leaves a
 * terminal alone. */
static void keep(const char *text) {
    printable(message, sizeof message, text, strlen(text));
}

enum status status_fail(enum status code, const char *format, ...) {
    char text[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments); /* arguments may point into `message` */
    va_end(arguments);
    keep(text);
    return code;
}

enum status status_context(enum status code, const char *format, ...) {
    char context[MESSAGE_BYTES / 2], text[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(context, sizeof context, format, arguments);
    va_end(arguments);
    int used = snprintf(text, sizeof text, "%s: ", context);
    snprintf(text + used, sizeof text - (size_t)used, "%.*s", MESSAGE_BYTES - used - 1, message);
    keep(text);
    return code;
}

const char *status_message(void) {
    return message;
}

const char *status_name(enum status code) {
    static const char *const names[STATUS_COUNT] = {[STATUS_OK] = "ok",
                                                    [STATUS_IO] = "io",
                                                    [STATUS_FORMAT] = "format",
                                                    [STATUS_UNSUPPORTED] = "unsupported",
                                                    [STATUS_CONFIG] = "config",
                                                    [STATUS_SHAPE] = "shape",
                                                    [STATUS_MEMORY] = "memory",
                                                    [STATUS_NUMERIC] = "numeric",
                                                    [STATUS_PEER] = "peer",
                                                    [STATUS_DEVICE] = "device",
                                                    [STATUS_CANCELLED] = "cancelled"};
    return (unsigned)code < STATUS_COUNT ? names[code] : "unknown";
}
