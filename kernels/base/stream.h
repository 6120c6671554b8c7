/* Where ops run: a number of CPU threads, or a CUDA stream. The first error of an op or a
 * collective sticks here with the op's name; stream_check() turns it into a status before results
 * are used, so ops themselves return void. */
#ifndef STRATA_KERNELS_BASE_STREAM_H
#define STRATA_KERNELS_BASE_STREAM_H

#include "kernels/base/status.h"
#include "kernels/base/where.h"
#include <stdbool.h>
#include <stddef.h>

struct stream;

/* What a stream of a GPU does its own way; the functions below say what each means. */
struct stream_calls {
    void (*copy)(struct stream *stream, void *to, const void *from, size_t bytes);
    void (*fill)(struct stream *stream, void *memory, int byte, size_t bytes);
    void (*synchronize)(struct stream *stream);
    void *(*scratch)(struct stream *stream, size_t bytes);
    void (*close)(struct stream *stream);
};

struct stream {
    int threads;           /* CPU threads an op may use; at least 1 */
    enum status status;    /* the first failure since the last check */
    const char *failed_op; /* its op: a string literal */
    char reason[160];
    struct where where;               /* what is being computed, for who watches */
    void *device;                     /* cudaStream_t on a GPU, NULL on a CPU */
    const struct stream_calls *calls; /* NULL on a CPU */
    void *scratch;                    /* device_scratch's */
    size_t scratch_bytes;
    struct product_library *products; /* cuBLASLt, from a GPU's first gradient on */
    bool own_products;                /* gradients by our kernels alone; the caller's to set */
};

/* What is computed from here on; the microbatch stays. */
static inline void stream_at(struct stream *stream, enum where_phase phase, int layer) {
    stream->where.phase = phase;
    stream->where.layer = layer;
}

/* A CPU stream. threads = 0 takes one a physical core that the process may run on. */
void stream_open_cpu(struct stream *stream, int threads);

/* Records a failure of `op` unless one is recorded already. */
void stream_fail(struct stream *stream, enum status status, const char *op, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* to = from (bytes), in the stream's order, either of them in the host's memory or the device's: on
 * a CPU they are one, and this is memcpy. */
void stream_copy(struct stream *stream, void *to, const void *from, size_t bytes);

/* Sets every byte of the memory to `byte`, in the stream's order. */
void stream_fill(struct stream *stream, void *memory, int byte, size_t bytes);

/* Gives back what the stream holds, after all its ops. For a stream that was never opened (all
 * zero) and for a second call: nothing. */
void stream_close(struct stream *stream);

/* Waits for all ops, then reports and clears the first failure. */
enum status stream_check(struct stream *stream);

#endif
