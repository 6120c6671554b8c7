/* What the NCCL communicator asks of the device whose memory it moves, besides NCCL itself. The
 * host's (below) stands for it where the library is the stand-in; a GPU's comes with the CUDA back
 * end. Streams are the device's own (struct stream's `device`; NULL is one too). */
#ifndef STRATA_PARALLEL_NCCL_DEVICE_H
#define STRATA_PARALLEL_NCCL_DEVICE_H

#include "core/comm.h"
#include "parallel/nccl_library.h"

struct nccl_device {
    const struct nccl_library *library;
    /* A stream for what runs beside the ops. NULL when there is no memory. */
    void *(*open_stream)(void);
    void (*close_stream)(void *stream);
    /* In the device's memory. NULL when there is none left. */
    void *(*allocate)(size_t bytes);
    void (*release)(void *memory);
    /* What is put on `stream` from here on runs after all that is on s. */
    void (*follow)(const struct nccl_device *, void *stream, const struct stream *s);
    /* What was last put on `stream`. */
    uint64_t (*mark)(const struct nccl_device *, const void *stream);
    bool (*done)(const struct nccl_device *, uint64_t mark);
    /* What runs on s from here on runs after the mark. False: call again; the host, whose ops run
     * when they are called, comes to it only when the mark is done. */
    bool (*join)(const struct nccl_device *, struct stream *s, uint64_t mark);
    /* comm_fold (parallel/comm_fold.h), on s. */
    void (*fold)(struct stream *s, void *out, const void *rows, int ranks, int64_t count,
                 enum dtype type, enum comm_sum sum);
};

/* The host as the device of the stand-in. Borrows the library. The real library refuses it:
 * STATUS_UNSUPPORTED. */
enum status nccl_device_host(struct nccl_device *device, const struct nccl_library *library);

#endif
