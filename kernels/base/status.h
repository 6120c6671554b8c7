/* What the world can do wrong: files, configuration, memory, network, peers.
 *
 * A function that can fail for such a reason returns an `enum status`. The message is made where
 * the failure was seen (it names the file, tensor, key or rank) by status_fail(), and kept for the
 * calling thread until its next failure, as errno is. Bugs are asserts, never a status. */
#ifndef STRATA_KERNELS_BASE_STATUS_H
#define STRATA_KERNELS_BASE_STATUS_H

enum status {
    STATUS_OK = 0,
    STATUS_IO,          /* a file or socket could not be read or written */
    STATUS_FORMAT,      /* bytes that are not what their format says */
    STATUS_UNSUPPORTED, /* well formed, but nothing here handles it */
    STATUS_CONFIG,      /* a key or an argument is unknown, missing or out of bounds */
    STATUS_SHAPE,       /* tensors that don't fit each other or the model */
    STATUS_MEMORY,      /* the bytes are not there */
    STATUS_NUMERIC,     /* NaN or infinity where a number must be */
    STATUS_PEER,        /* another rank failed or can't be reached */
    STATUS_DEVICE,      /* a kernel or driver reported an error */
    STATUS_CANCELLED,   /* the user or the scheduler asked to stop */
    STATUS_COUNT
};

/* Stores the message (printf format, at most 1023 bytes are kept) and returns `code`. The message
 * is one line of UTF-8: a control character or a byte that is not UTF-8, which an argument brought
 * from a file, becomes \xNN. */
enum status status_fail(enum status code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Puts "context: " before the stored message of this thread and returns `code`. */
enum status status_context(enum status code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The last message of this thread; "" before any. Valid until its next failure. */
const char *status_message(void);

/* One word for a code: "io", "format", ... */
const char *status_name(enum status code);

/* The only macro that changes control flow: return the status of a call that failed. */
#define TRY(call)                                                                                  \
    do {                                                                                           \
        enum status try_status = (call);                                                           \
        if (try_status != STATUS_OK) return try_status;                                            \
    } while (0)

#endif
